package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/scope-registry/scope-registry/internal/freeport"
	"github.com/scope-registry/scope-registry/internal/gate/commands"
	"github.com/scope-registry/scope-registry/internal/gate/differ/program"
)

// startStore starts a store of the program on a free port of loopback, with its files in dir, and waits until it
// answers. It ends with ctx; stop waits for that.
func startStore(ctx context.Context, bin, dir string) (addr string, stop func(), err error) {
	addrs, err := freeport.Addrs(1) // the store takes no port 0
	if err != nil {
		return "", nil, err
	}
	addr = addrs[0]
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	log := filepath.Join(dir, "log")
	// An idle store sees only with its next tick that the time of a command that waits is over: 500 ticks a second, not 10.
	cmd := exec.CommandContext(ctx, bin, "--hz", "500", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", dir, "--logfile", log)
	if err := cmd.Start(); err != nil {
		cancel()
		return "", nil, fmt.Errorf("starting %s: %w; install redis-server or Valkey, or name one with -store", bin, err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // killed by cancel
		close(ended)
	}()
	stop = func() { cancel(); <-ended }
	if err := answers(ctx, addr, ended); err != nil {
		stop()
		return "", nil, fmt.Errorf("%w; its log is %s", err, log)
	}
	return addr, stop, nil
}

// answers waits until a store answers at the address.
func answers(ctx context.Context, addr string, ended <-chan struct{}) error {
	for {
		if c, err := dial(ctx, addr); err == nil {
			a := <-c.send(encode([]program.Command{{Args: []string{"PING"}}}, false), 0, 1)
			c.Close()
			if a.err == nil && string(a.replies[0]) == "+PONG\r\n" {
				return nil
			}
		}
		select {
		case <-ended:
			return errors.New("the store has ended before it answered")
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
	}
}

// ask sends one command to a store and returns its reply.
func ask(ctx context.Context, addr string, args ...string) (value, error) {
	c, err := dial(ctx, addr)
	if err != nil {
		return value{}, err
	}
	defer c.Close()
	a := <-c.send(encode([]program.Command{{Args: args}}, false), 0, 1)
	if a.err != nil {
		return value{}, a.err
	}
	return parse(a.replies[0]), nil
}

// describe asks a store for its commands and checks the gate's table against them.
func describe(ctx context.Context, addr string) (*commands.Checked, commands.Differences, error) {
	reply, err := ask(ctx, addr, "COMMAND")
	if err != nil {
		return nil, commands.Differences{}, err
	}
	upstream, err := commands.Describe(reply.decoded())
	if err != nil {
		return nil, commands.Differences{}, err
	}
	checked, diff := commands.Check(upstream)
	return checked, diff, nil
}

// copyKeys sets each key of one store in another, to no value that matters: replies tell of them how many there are.
func copyKeys(ctx context.Context, from, to string) error {
	keys, err := ask(ctx, from, "KEYS", "*")
	if err != nil {
		return err
	}
	for _, key := range keys.list {
		if v, err := ask(ctx, to, "SET", key.text, "x"); err != nil || v.text != "OK" {
			return fmt.Errorf("setting %q at %s: %s %w", key.text, to, v.text, err)
		}
	}
	return nil
}
