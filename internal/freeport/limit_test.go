//go:build unix

package freeport

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// limitEnv has the test's own program, as another process, ask for more than it may open.
const limitEnv = "FREEPORT_TEST_LIMIT"

// TestLimit: a process that may open no more files is told that, and not that others listen.
func TestLimit(t *testing.T) {
	if os.Getenv(limitEnv) != "" {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 30, Max: 30}); err != nil {
			t.Fatal(err)
		}
		_, err := Addrs(30)
		t.Logf("said: %v", err)
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestLimit$", "-test.v")
	cmd.Env = append(os.Environ(), limitEnv+"=1")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if said := string(out); !strings.Contains(said, syscall.EMFILE.Error()) || !strings.Contains(said, "file descriptor") || strings.Contains(said, "end programs") {
		t.Errorf("it said %s", said)
	}
}
