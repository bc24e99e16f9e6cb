package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/pflag"
)

// process is a program in the background.
type process struct {
	args     []string
	cmd      *exec.Cmd
	done     chan struct{} // closed when it has ended and all its output is here
	out, err output
	grew     chan struct{} // has one element when output came since it was emptied
}

// output is what a process has printed so far.
type output struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
	grew chan struct{}
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Write(p)
	select {
	case o.grew <- struct{}{}:
	default: // who waits will look anyway
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// environment is the script's: the variables it began with, and ours, which it may have set since.
func (b *bench) environment(ts *testscript.TestScript) []string {
	env := slices.Clone(b.vars)
	add := func(name string) {
		if v := ts.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	add(envEndpoints)
	(&cli{}).serveCmd().Flags().VisitAll(func(f *pflag.Flag) { add(envPrefix + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))) })
	return env
}

func (b *bench) start(ts *testscript.TestScript, args []string) {
	if len(args) < 2 || b.procs[args[0]] != nil {
		ts.Fatalf("usage: start NAME program [args...], with a new name")
	}
	path, err := exec.LookPath(args[1])
	ts.Check(err)
	p := &process{args: args[1:], cmd: exec.Command(path, args[2:]...), done: make(chan struct{}), grew: make(chan struct{}, 1)}
	p.out.grew, p.err.grew = p.grew, p.grew
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Dir, p.cmd.Env = &p.out, &p.err, ts.MkAbs("."), b.environment(ts)
	ts.Check(p.cmd.Start())
	b.procs[args[0]] = p
	go func() {
		_ = p.cmd.Wait() // ended looks at the exit code
		close(p.done)
	}()
}

func (b *bench) proc(ts *testscript.TestScript, name string) *process {
	if b.procs[name] == nil {
		ts.Fatalf("nothing was started as %s", name)
	}
	return b.procs[name]
}

func (b *bench) until(ts *testscript.TestScript, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: until NAME REGEXP")
	}
	p, want := b.proc(ts, args[0]), regexp.MustCompile(`(?m)`+args[1])
	late := time.After(patience)
	for ended := false; ; {
		text := p.out.String() + p.err.String()
		if want.MatchString(text) {
			_, err := io.WriteString(ts.Stdout(), text) // for capture
			ts.Check(err)
			return
		}
		if ended {
			ts.Fatalf("it has ended without printing %s:\n%s", args[1], text)
		}
		select {
		case <-p.grew:
		case <-p.done:
			ended = true
		case <-late:
			ts.Fatalf("it has not printed %s within %v:\n%s", args[1], patience, text)
		}
	}
}

func (b *bench) interrupt(ts *testscript.TestScript, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: interrupt NAME")
	}
	ts.Check(b.proc(ts, args[0]).cmd.Process.Signal(os.Interrupt))
}

func (b *bench) ended(ts *testscript.TestScript, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: ended NAME N")
	}
	p := b.proc(ts, args[0])
	select {
	case <-p.done:
	case <-time.After(patience):
		ts.Fatalf("it has not ended within %v:\n%s%s", patience, &p.out, &p.err)
	}
	delete(b.procs, args[0])
	var failed *exec.ExitError
	if !p.cmd.ProcessState.Success() {
		failed = &exec.ExitError{ProcessState: p.cmd.ProcessState}
	}
	ts.Logf("%s%s", &p.out, &p.err)
	b.check(ts, args[1], failed, p.args, p.out.String(), p.err.String())
}
