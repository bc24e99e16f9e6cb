package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// stopTime is what a process gets to end after SIGTERM.
	stopTime = 60 * time.Second
	// startTime bounds the start of three processes and their first election.
	startTime = 60 * time.Second
	// pollEvery is the pause between two looks at whether they are ready.
	pollEvery = 50 * time.Millisecond
	// logTail is how much of a log an error shows, in bytes.
	logTail = 4 << 10
)

// process is one server of a system that is measured.
type process struct {
	name, log string
	cmd       *exec.Cmd
	ended     chan struct{} // closed after it was waited for
}

// startProcess runs a program with its output in a file of dir.
func startProcess(dir, name, program string, args ...string) (*process, error) {
	path := filepath.Join(dir, name+".log")
	out, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s did not start: %w", name, err), out.Close())
	}
	p := &process{name: name, log: path, cmd: cmd, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		_ = cmd.Wait()  // how it ended is in cmd.ProcessState
		_ = out.Close() // the process wrote it, not we
	}()
	return p, nil
}

// stop ends the process, by SIGKILL if it does not end by itself.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	timer := time.NewTimer(stopTime)
	defer timer.Stop()
	select {
	case <-p.ended:
		return nil
	case <-timer.C:
		err := p.cmd.Process.Kill()
		<-p.ended
		return errors.Join(err, fmt.Errorf("%s still ran %v after SIGTERM", p.name, stopTime))
	}
}

// crashed is an error when the process has ended.
func (p *process) crashed() error {
	select {
	case <-p.ended:
		return fmt.Errorf("%s ended by itself: %v\n%s", p.name, p.cmd.ProcessState, p.tail())
	default:
		return nil
	}
}

func (p *process) tail() string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return "no log: " + err.Error()
	}
	return string(data[max(0, len(data)-logTail):])
}

// resident is the memory of the process in bytes.
func (p *process) resident() (uint64, error) { return p.memory("VmRSS") }

// peak is the most memory that the process had since forgetPeak, in bytes.
func (p *process) peak() (uint64, error) { return p.memory("VmHWM") }

func (p *process) forgetPeak() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.cmd.Process.Pid), []byte("5"), 0)
}

// memory is a field of the process's status, in bytes.
func (p *process) memory(field string) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("memory of %s: %w; only Linux tells it", p.name, err)
	}
	_, rest, _ := strings.Cut(string(data), field+":")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0, fmt.Errorf("memory of %s: no %s in its status", p.name, field)
	}
	kib, err := strconv.ParseUint(fields[0], 10, 64)
	return kib << 10, err
}

// group is the processes of one system.
type group []*process

func (g group) stop() error {
	var errs []error
	for _, p := range g {
		errs = append(errs, p.stop())
	}
	return errors.Join(errs...)
}

func (g group) resident() (uint64, error) {
	var sum uint64
	for _, p := range g {
		n, err := p.resident()
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// wait asks ready until it returns nil, a process has crashed, or startTime is over.
func (g group) wait(ctx context.Context, what string, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		for _, p := range g {
			if crashed := p.crashed(); crashed != nil {
				return crashed
			}
		}
		if pause(ctx, pollEvery) != nil {
			return fmt.Errorf("waiting for %s: %w: last answer: %w", what, ctx.Err(), err)
		}
	}
}

// pause waits for d, or until ctx is done and then returns its error.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// freeAddrs returns n addresses on loopback that nobody listened on a moment ago.
// All are held until the last is known, so that they differ.
func freeAddrs(n int) ([]string, error) {
	var out []string
	var held []net.Listener
	defer func() {
		for _, l := range held {
			_ = l.Close() // never accepted anything
		}
	}()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("no free port on 127.0.0.1: %w", err)
		}
		held = append(held, l)
		out = append(out, l.Addr().String())
	}
	return out, nil
}
