// Package process runs programs on this machine as processes of their own, ends
// them without notice, has them stand still, and keeps what they print.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

const (
	// stopTime is what a process gets to end after SIGTERM, a snapshot of a large state included.
	stopTime = 15 * time.Second
	// logTail is how much of what a program printed Logs returns, in bytes.
	logTail = 8 << 10
)

// run is one process of a program.
type run struct {
	cmd    *exec.Cmd
	ended  chan struct{} // closed after the process was waited for
	wanted bool          // its end was asked for
	still  bool          // it was paused
}

// Program is a command that is run again and again, one process at a time. It is
// safe for use by many goroutines. Close it when done.
type Program struct {
	name, log, bin string
	args           []string
	mu             sync.Mutex // guards the rest
	run            *run       // nil if no process was started since the last one was ended
}

// New returns the program that bin with args is. What all its processes print is
// kept in the file log. Nothing is started.
func New(name, log, bin string, args ...string) *Program {
	return &Program{name: name, log: log, bin: bin, args: args}
}

// Name is the name that was given.
func (p *Program) Name() string { return p.name }

// Start starts a process.
func (p *Program) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.run != nil {
		return fmt.Errorf("%s runs already as process %d; kill it first", p.name, p.run.cmd.Process.Pid)
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	cmd := exec.Command(p.bin, p.args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("%s did not start: %w", p.name, err), log.Close())
	}
	r := &run{cmd: cmd, ended: make(chan struct{})}
	p.run = r
	go func() {
		defer close(r.ended)
		_ = cmd.Wait()  // how it ended is in cmd.ProcessState
		_ = log.Close() // the process wrote it, not we
	}()
	return nil
}

// Running says whether a process was started and not ended by Kill or Stop.
func (p *Program) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.run != nil
}

// Kill ends the process with SIGKILL and returns when it is gone.
func (p *Program) Kill() error { return p.end(os.Kill) }

// Stop ends the process with SIGTERM and returns when it is gone; it is an error
// if it exits with another code than 0 or has to be killed.
func (p *Program) Stop() error { return p.end(syscall.SIGTERM) }

// ending is the process, whose end is wanted from now on.
func (p *Program) ending() (*run, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.run == nil {
		return nil, fmt.Errorf("%s does not run", p.name)
	}
	p.run.wanted = true
	return p.run, nil
}

func (p *Program) end(sig os.Signal) error {
	r, err := p.ending()
	if err != nil {
		return err
	}
	defer p.forget(r)
	select {
	case <-r.ended:
		return fmt.Errorf("%s had ended by itself: %v\n%s", p.name, r.cmd.ProcessState, p.Logs())
	default:
	}
	if err = r.cmd.Process.Signal(sig); errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	timer := time.NewTimer(stopTime)
	defer timer.Stop()
	select {
	case <-r.ended:
	case <-timer.C:
		err = errors.Join(err, fmt.Errorf("%s still ran %v after %v", p.name, stopTime, sig), r.cmd.Process.Kill())
		<-r.ended
	}
	if err == nil && sig != os.Kill && r.cmd.ProcessState.ExitCode() != 0 {
		err = fmt.Errorf("%s answered %v with %v\n%s", p.name, sig, r.cmd.ProcessState, p.Logs())
	}
	return err
}

// Wait waits for a process that ends by itself and returns its exit code, -1 if a
// signal ended it. Another process may be started then.
func (p *Program) Wait(ctx context.Context) (int, error) {
	r, err := p.ending()
	if err != nil {
		return 0, err
	}
	select {
	case <-r.ended:
		p.forget(r)
		return r.cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("%s has not ended: %w", p.name, ctx.Err())
	}
}

func (p *Program) forget(r *run) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.run == r {
		p.run = nil
	}
}

// Crashed is an error when the process has ended and nobody ended it.
func (p *Program) Crashed() error {
	p.mu.Lock()
	r := p.run
	silent := r == nil || r.wanted
	p.mu.Unlock()
	if silent {
		return nil
	}
	select {
	case <-r.ended:
		return fmt.Errorf("%s ended by itself: %v\n%s", p.name, r.cmd.ProcessState, p.Logs())
	default:
		return nil
	}
}

// Logs is the end of what the program has printed over all its processes.
func (p *Program) Logs() string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return "no log: " + err.Error()
	}
	return string(data[max(0, len(data)-logTail):])
}

// Close ends the process, if there is one: by SIGTERM, one that stands still by
// SIGKILL.
func (p *Program) Close() error {
	p.mu.Lock()
	running, still := p.run != nil, p.run != nil && p.run.still
	p.mu.Unlock()
	switch {
	case !running:
		return nil
	case still:
		return p.Kill()
	default:
		return p.Stop()
	}
}

// Pid is the id of the process, 0 if none was started or it has ended.
func (p *Program) Pid() int {
	r := p.current()
	if r == nil {
		return 0
	}
	select {
	case <-r.ended:
		return 0
	default:
		return r.cmd.Process.Pid
	}
}

// Still says whether the process was paused and did not go on since.
func (p *Program) Still() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.run != nil && p.run.still
}

func (p *Program) current() *run {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.run
}
