//go:build unix

package containers

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestCommandsHaveAGroup: a signal to the group of this process, as a terminal sends it, does not end a command.
func TestCommandsHaveAGroup(t *testing.T) {
	if _, err := runCommand(t.Context(), Call{Args: []string{"/bin/sh", "-c", "kill -0 -$$"}}); err != nil {
		t.Errorf("a command leads no process group: %v", err)
	}
}

// TestCommandsEndWithTheirChildren: a child that holds the output open would keep a command from returning.
func TestCommandsEndWithTheirChildren(t *testing.T) {
	begun, never := filepath.Join(t.TempDir(), "begun"), filepath.Join(t.TempDir(), "never")
	if err := errors.Join(syscall.Mkfifo(begun, 0o600), syscall.Mkfifo(never, 0o600)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := runCommand(ctx, Call{Args: []string{"/bin/sh", "-c", "(echo > " + begun + "; echo > " + never + ") & wait"}})
		ended <- err
	}()
	if _, err := os.ReadFile(begun); err != nil { // returns when the child has written
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("a command that was cut short succeeded")
	}
}
