package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// pauseTime bounds how long a process may take to stand still: a thread that writes to a disk ends that first.
	pauseTime = 10 * time.Second
	// pauseEvery is the time between two looks at its threads.
	pauseEvery = time.Millisecond
)

// Pause has the process stand still, by SIGSTOP, and returns when all its threads
// do. The kernel goes on for it: connections to it are taken, and stay silent.
func (p *Program) Pause() error {
	r, err := p.signal(syscall.SIGSTOP, true)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), pauseTime)
	defer cancel()
	for {
		still, err := stands(r.cmd.Process.Pid)
		switch {
		case err != nil:
			return fmt.Errorf("whether %s stands still cannot be seen: %w", p.name, err)
		case still:
			return nil
		}
		if Sleep(ctx, pauseEvery) != nil {
			return fmt.Errorf("%s does not stand still %v after SIGSTOP", p.name, pauseTime)
		}
	}
}

// Resume has a process that stands still go on, by SIGCONT.
func (p *Program) Resume() error {
	_, err := p.signal(syscall.SIGCONT, false)
	return err
}

func (p *Program) signal(sig os.Signal, still bool) (*run, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.run == nil {
		return nil, fmt.Errorf("%s does not run", p.name)
	}
	if err := p.run.cmd.Process.Signal(sig); err != nil {
		return nil, fmt.Errorf("%s got no %v: %w", p.name, sig, err)
	}
	p.run.still = still
	return p.run, nil
}

// stands says whether every thread of a process is stopped, as Linux tells in /proc.
func stands(pid int) (bool, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(tasks) == 0 {
		return false, errors.Join(fmt.Errorf("/proc shows no threads of process %d", pid), err)
	}
	for _, task := range tasks {
		stat, err := os.ReadFile(task)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // the thread has ended meanwhile
		}
		if err != nil {
			return false, err
		}
		// The name before the state may hold anything, but the last parenthesis ends it.
		_, rest, found := strings.Cut(string(stat[max(0, strings.LastIndexByte(string(stat), ')')):]), " ")
		if !found || rest[0] != 'T' {
			return false, nil
		}
	}
	return true, nil
}

// Sleep waits for d, or until ctx is done and then returns its error.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
