package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/scope-registry/scope-registry/internal/freeport"
)

// redis is one Redis that keeps nothing on disk.
type redis struct {
	group
	addr string
}

// startRedisIn starts one that is empty in dir, which it makes.
func startRedisIn(ctx context.Context, o options, dir string) (*redis, error) {
	addrs, err := freeport.Addrs(1)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return nil, err
	}
	r := &redis{addr: addrs[0]}
	host, port, _ := strings.Cut(r.addr, ":")
	err = r.group.start(dir, "redis", o.redisServer, "--bind", host, "--port", port, "--dir", dir, "--save", "", "--appendonly", "no", "--daemonize", "no")
	if err == nil {
		err = r.wait(ctx, "Redis", func(ctx context.Context) error {
			return exchange(ctx, r.addr, 1, func(int) []string { return []string{"PING"} }, "+PONG\r\n")
		})
	}
	if err != nil {
		return nil, errors.Join(err, r.stop())
	}
	return r, nil
}

// startRedis starts one below dir and gives it the keys.
func startRedis(ctx context.Context, o options, dir string) (*redis, error) {
	r, err := startRedisIn(ctx, o, dir)
	if err != nil {
		return nil, err
	}
	err = ask(ctx, r.addr, []string{"SET", randomKey, "OWNED"}, "+OK\r\n")
	if err == nil { // as of a list there is no GET, a key whose number was not replaced ends redis-benchmark
		err = exchange(ctx, r.addr, 1, func(int) []string { return []string{"LPUSH", randomKey, "OWNED"} }, ":1\r\n")
	}
	if err != nil {
		return nil, errors.Join(err, r.stop())
	}
	return r, nil
}

// ask sends a command once for each key and is an error if not each of the answers is the one that is wanted.
func ask(ctx context.Context, addr string, command []string, want string) error {
	return exchange(ctx, addr, keys, func(i int) []string {
		var args []string
		for _, a := range command {
			args = append(args, replaced(a, i))
		}
		return args
	}, want)
}

// exchange sends n commands in pipelines and compares their answers.
func exchange(ctx context.Context, addr string, n int, command func(i int) []string, want string) (err error) {
	const pipeline = 1000 // less than what a server and two sockets hold, so that writing ends before reading begins
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	until, _ := ctx.Deadline()
	if err := c.SetDeadline(until); err != nil {
		return err
	}
	w, r, got := bufio.NewWriter(c), bufio.NewReader(c), make([]byte, len(want))
	for from := 0; from < n; from += pipeline {
		to := min(from+pipeline, n)
		for i := from; i < to; i++ {
			args := command(i)
			fmt.Fprintf(w, "*%d\r\n", len(args)) // Flush tells the error
			for _, a := range args {
				fmt.Fprintf(w, "$%d\r\n%s\r\n", len(a), a)
			}
		}
		if err := w.Flush(); err != nil {
			return err
		}
		for i := from; i < to; i++ {
			if n, err := io.ReadFull(r, got); err != nil {
				return fmt.Errorf("%s answered %q to %q, want %q: %w", addr, got[:n], command(i), want, err)
			}
			if string(got) != want {
				return fmt.Errorf("%s answered %q to %q, want %q", addr, got, command(i), want)
			}
		}
	}
	return nil
}

// redisVersions is what the two programs say they are.
func redisVersions(ctx context.Context, o options) (server, benchmark string, err error) {
	server, err = output(ctx, o.redisServer, "--version")
	if err == nil {
		benchmark, err = output(ctx, o.redisBenchmark, "--version")
	}
	if err != nil {
		err = fmt.Errorf("%w; Debian's redis-tools has redis-benchmark, and redis-check-rdb, which under the name redis-server is the server; other programs are named by -redis-server and -redis-benchmark", err)
	}
	return server, benchmark, err
}
