package process

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// limit bounds every wait of these tests.
const limit = 30 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shell is a program of the system's shell. What it prints is in the file.
func shell(t *testing.T, script string) (p *Program, log string) {
	t.Helper()
	log = filepath.Join(t.TempDir(), "log")
	p = New("shell", log, "/bin/sh", "-c", script)
	t.Cleanup(func() { _ = p.Close() })
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	return p, log
}

// until waits until the program has printed more than so many bytes.
func until(t *testing.T, log string, size int64) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for {
		if now := bytesOf(t, log); now > size {
			return now
		}
		if err := Sleep(ctx, time.Millisecond); err != nil {
			t.Fatalf("no more than %d bytes were printed in %v", size, limit)
		}
	}
}

func bytesOf(t *testing.T, log string) int64 {
	t.Helper()
	info, err := os.Stat(log)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func TestRunsOneAfterTheOther(t *testing.T) {
	p, log := shell(t, "trap '' TERM; echo begun; while :; do sleep 0.01; done")
	until(t, log, 0)
	if err := p.Start(); err == nil || !strings.Contains(err.Error(), "runs already") {
		t.Errorf("a second process beside the first: %v", err)
	}
	if err := p.Kill(); err != nil || p.Running() {
		t.Errorf("killed: %v, running %t", err, p.Running())
	}
	if err := p.Kill(); err == nil {
		t.Error("killed what did not run")
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, log, int64(len("begun\n")))
	if got := p.Logs(); got != "begun\nbegun\n" {
		t.Errorf("the log of both processes is %q", got)
	}
	if err := p.Kill(); err != nil {
		t.Error(err)
	}
}

func TestStopTellsTheExitCode(t *testing.T) {
	for script, want := range map[string]string{
		"trap 'exit 0' TERM; echo; while :; do sleep 0.01; done":           "",
		"trap 'echo bad; exit 3' TERM; echo; while :; do sleep 0.01; done": "exit status 3\n\nbad",
	} {
		p, log := shell(t, script)
		until(t, log, 0)
		err := p.Stop()
		if said := ""; err != nil {
			if said = err.Error(); want == "" || !strings.Contains(said, want) {
				t.Errorf("%s: %v", script, err)
			}
		} else if want != "" {
			t.Errorf("%s: no error", script)
		}
	}
}

func TestEndsByItself(t *testing.T) {
	p, _ := shell(t, "echo why; exit 7")
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for p.Crashed() == nil {
		if Sleep(ctx, time.Millisecond) != nil {
			t.Fatal("an end that nobody asked for was not noticed")
		}
	}
	if err := p.Crashed(); !strings.Contains(err.Error(), "why") {
		t.Errorf("%v does not say what was printed", err)
	}
	if err := p.Stop(); err == nil || !strings.Contains(err.Error(), "ended by itself") {
		t.Errorf("stopping it: %v", err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	if code, err := p.Wait(ctx); code != 7 || err != nil || p.Running() || p.Crashed() != nil {
		t.Errorf("exit code %d, %v; running %t; crashed: %v", code, err, p.Running(), p.Crashed())
	}
}

// TestPause: nothing is printed between Pause and Resume.
func TestPause(t *testing.T) {
	p, log := shell(t, "while echo tick; do :; done")
	until(t, log, 0)
	for range 3 {
		if err := p.Pause(); err != nil {
			t.Fatal(err)
		}
		size := bytesOf(t, log)
		for range 100 {
			if now := bytesOf(t, log); now != size {
				t.Fatalf("%d bytes more were printed while it stood still", now-size)
			}
		}
		if err := p.Resume(); err != nil {
			t.Fatal(err)
		}
		until(t, log, size)
	}
	if err := p.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil || p.Running() {
		t.Errorf("closing it while it stands still: %v, running %t", err, p.Running())
	}
}

func TestBuildSaysWhy(t *testing.T) {
	_, err := Build(t.Context(), filepath.Join("..", ".."), t.TempDir(), "./internal/nothing")
	if err == nil || !strings.Contains(err.Error(), "internal/nothing") {
		t.Errorf("building what there is not: %v", err)
	}
}
