package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

const (
	// shipGrace is what the ship command gets to end after SIGTERM, and its
	// output to end after the command did.
	shipGrace = 5 * time.Second
	// messageGrace is how long the last messages of a command are waited for. A
	// process that stays in the background on purpose, like a shared ssh
	// connection, often holds standard error open.
	messageGrace = 200 * time.Millisecond
	// maxShipLine bounds what is kept of one line of output: a manifest has far less.
	maxShipLine = 64 << 10
	// maxShown bounds what an error repeats of a line.
	maxShown = 200
)

// shipCommand is the operator's own command that ships a slice.
type shipCommand struct {
	text   string
	env    []string
	stderr io.Writer // its standard error, and what it prints besides the manifest
	grace  time.Duration
}

// run runs the command in a process group of its own and returns the manifest
// it printed, if any. When ctx ends, the whole group gets SIGTERM, and SIGKILL
// after the grace. The error is the cause of ctx, or says in a sentence how the
// command failed; nothing of the group is left then.
func (s shipCommand) run(ctx context.Context, phase string) (*api.Manifest, error) {
	out := &shipOutput{to: s.stderr}
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", s.text)
	cmd.Env = append(append(os.Environ(), s.env...), "SCOPE_PHASE="+phase)
	cmd.Stdout = out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM); !errors.Is(err, syscall.ESRCH) {
			return err
		}
		return os.ErrProcessDone
	}
	cmd.WaitDelay = s.grace
	messages, err := s.messages(cmd)
	if err != nil {
		return nil, err
	}
	err = cmd.Start()
	if err != nil {
		messages()
		return nil, fmt.Errorf("the ship command did not start: %w", err)
	}
	err = cmd.Wait()
	messages()
	m, bad := out.manifest(err == nil)
	switch {
	case err == nil && bad == nil:
		return m, nil
	case err == nil:
		err = bad
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case errors.Is(err, exec.ErrWaitDelay):
		err = fmt.Errorf("the ship command ended, but a process it left behind holds its output; it has to wait for what it starts")
	default:
		err = fmt.Errorf("the ship command ended with %w", err)
	}
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what the shell started and left
	return nil, err
}

// messages connects the command's standard error. The returned function waits
// for what is still on its way.
func (s shipCommand) messages(cmd *exec.Cmd) (finish func(), err error) {
	if f, ok := s.stderr.(*os.File); ok {
		cmd.Stderr = f
		return func() {}, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("the ship command did not start: %w", err)
	}
	cmd.Stderr = w
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(s.stderr, r)
	}()
	return func() {
		_ = w.Close()
		select {
		case <-done:
		case <-time.After(messageGrace):
		}
		_ = r.Close()
		<-done
	}, nil
}

// shipOutput takes what a ship command prints. It passes lines on, but holds
// one back that looks like JSON: it is the manifest if no other line follows.
type shipOutput struct {
	to   io.Writer
	line []byte // as much of the line that has not ended as is kept
	held []byte // the line that may be the manifest
}

// Write never fails: a terminal that is gone is no reason to stop shipping.
func (o *shipOutput) Write(p []byte) (int, error) {
	for chunk := range bytes.SplitAfterSeq(p, []byte("\n")) {
		o.line = append(o.line, chunk[:min(len(chunk), maxShipLine-len(o.line))]...)
		if bytes.HasSuffix(chunk, []byte("\n")) {
			o.endLine()
		}
	}
	return len(p), nil
}

func (o *shipOutput) endLine() {
	line := bytes.TrimSpace(o.line)
	switch {
	case len(line) == 0:
	case line[0] == '{':
		o.release()
		o.held = bytes.Clone(line)
	default:
		o.release()
		_, _ = o.to.Write(append(bytes.TrimRight(o.line, "\r\n"), '\n'))
	}
	o.line = o.line[:0]
}

// release passes on the line that turned out to be no manifest.
func (o *shipOutput) release() {
	if o.held != nil {
		_, _ = o.to.Write(append(o.held, '\n'))
		o.held = nil
	}
}

// manifest is the manifest after the last line, nil if there is none. What a
// command printed that failed is not taken for one.
func (o *shipOutput) manifest(succeeded bool) (*api.Manifest, error) {
	o.endLine()
	if !succeeded {
		o.release()
	}
	if o.held == nil {
		return nil, nil
	}
	var m struct {
		Keys   *uint64 `json:"keys"`
		Bytes  *uint64 `json:"bytes"`
		Digest string  `json:"digest"`
	}
	dec := json.NewDecoder(bytes.NewReader(o.held))
	dec.DisallowUnknownFields()
	err := dec.Decode(&m)
	switch {
	case err == nil && dec.InputOffset() != int64(len(o.held)):
		err = errors.New("more follows it")
	case err == nil && (m.Keys == nil || m.Bytes == nil):
		err = errors.New("keys and bytes are needed")
	}
	if err != nil {
		return nil, fmt.Errorf(`the last line of the ship command's output looks like a manifest and is none (%w): %s; print {"keys":N,"bytes":N,"digest":"…"} or no JSON`,
			err, o.held[:min(len(o.held), maxShown)])
	}
	return &api.Manifest{Keys: *m.Keys, Bytes: *m.Bytes, Digest: m.Digest}, nil
}
