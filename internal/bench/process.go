package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/scope-registry/scope-registry/internal/process"
)

const (
	// startTime bounds the start of three processes and their first election.
	startTime = 60 * time.Second
	// stopTime is what a server in this process gets to end.
	stopTime = 15 * time.Second
	// pollEvery is the pause between two looks at whether they are ready.
	pollEvery = 50 * time.Millisecond
)

// group is the processes of one system.
type group []*process.Program

// start starts one more, with its output in a file of dir.
func (g *group) start(dir, name, program string, args ...string) error {
	p := process.New(name, filepath.Join(dir, name+".log"), program, args...)
	*g = append(*g, p)
	return p.Start()
}

// stop ends all. How they end is of no matter any more: an etcd ends by the signal.
func (g group) stop() error {
	for _, p := range g {
		_ = p.Close()
	}
	return nil
}

// resident is the memory of all in bytes.
func (g group) resident() (uint64, error) {
	var sum uint64
	for _, p := range g {
		n, err := resident(p)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// resident is the memory of a process in bytes, and peak the most that it had since forgetPeak.
func resident(p *process.Program) (uint64, error) { return memory(p, "VmRSS") }

func peak(p *process.Program) (uint64, error) { return memory(p, "VmHWM") }

func forgetPeak(p *process.Program) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.Pid()), []byte("5"), 0)
}

// memory is a field of a process's status, in bytes.
func memory(p *process.Program, field string) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
	if err != nil {
		return 0, fmt.Errorf("memory of %s: %w; only Linux tells it", p.Name(), err)
	}
	_, rest, _ := strings.Cut(string(data), field+":")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0, fmt.Errorf("memory of %s: no %s in its status", p.Name(), field)
	}
	kib, err := strconv.ParseUint(fields[0], 10, 64)
	return kib << 10, err
}

// cpu is the processor time that all have used since they were started.
func (g group) cpu() (sum time.Duration, err error) {
	for _, p := range g {
		d, err := cpuOf(p.Pid())
		if err != nil {
			return 0, err
		}
		sum += d
	}
	return sum, nil
}

// tick is the unit of processor times in /proc.
const tick = time.Second / 100

// cpuOf is the processor time of a process: its user's and the kernel's.
func cpuOf(pid int) (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("processor time of process %d: %w; only Linux tells it", pid, err)
	}
	_, rest, _ := strings.Cut(string(data), ") ") // after the name
	const user, kernel = 11, 12
	fields := strings.Fields(rest)
	if len(fields) <= kernel {
		return 0, fmt.Errorf("processor time of process %d: its stat is %q", pid, data)
	}
	u, err := strconv.ParseInt(fields[user], 10, 64)
	if err != nil {
		return 0, err
	}
	k, err := strconv.ParseInt(fields[kernel], 10, 64)
	return time.Duration(u+k) * tick, err
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
			if crashed := p.Crashed(); crashed != nil {
				return crashed
			}
		}
		if process.Sleep(ctx, pollEvery) != nil {
			return fmt.Errorf("waiting for %s: %w: last answer: %w", what, ctx.Err(), err)
		}
	}
}
