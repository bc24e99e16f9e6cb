package target

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/internal/chaos/history"
)

// fake answers commands by what they begin with, and remembers them.
type fake struct {
	answers map[string]string // an answer that begins with "!" is an error
	env     []string
	asked   []string
}

func (f *fake) run(_ context.Context, env []string, name string, args ...string) ([]byte, error) {
	line := strings.Join(append([]string{name}, args...), " ")
	f.asked, f.env = append(f.asked, line), env
	best := ""
	for begin := range f.answers {
		if strings.HasPrefix(line, begin) && len(begin) > len(best) {
			best = begin
		}
	}
	if text, ok := strings.CutPrefix(f.answers[best], "!"); ok {
		return nil, errors.New(text)
	}
	return []byte(f.answers[best]), nil
}

const inspectRunning = `[{"State":{"Status":"running","Pid":42},"NetworkSettings":{"Networks":{
	"test_clients":{"IPAddress":"172.20.0.2","Aliases":["registry-2"]},
	"test_peers":{"IPAddress":"172.21.0.3","Aliases":["registry-2","registry-2.peers"]}}}}]`

func opened(t *testing.T, answers map[string]string) (*Docker, *fake) {
	t.Helper()
	f := &fake{answers: map[string]string{"docker version": "20.10\n", "docker compose version": "!unknown command", "docker ps": "c0ffee\n",
		"docker inspect": inspectRunning}}
	for k, v := range answers {
		f.answers[k] = v
	}
	file := filepath.Join(t.TempDir(), "compose.yml")
	if err := os.WriteFile(file, []byte("services: {}"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := newDocker(t.Context(), []string{file}, "test", 2, f.run)
	if err != nil {
		t.Fatal(err)
	}
	f.asked = nil
	return d, f
}

func TestNoDocker(t *testing.T) {
	f := &fake{answers: map[string]string{"docker version": "!Cannot connect to the Docker daemon"}}
	_, err := newDocker(t.Context(), []string{"compose.yml"}, "test", 0, f.run)
	if err == nil || !strings.Contains(err.Error(), "no docker engine answers: Cannot connect") || !strings.Contains(err.Error(), "apt-get") {
		t.Errorf("without an engine: %v", err)
	}
	f.answers = map[string]string{"docker compose": "!no plugin", "docker-compose": "!not found"}
	if _, err = newDocker(t.Context(), []string{"compose.yml"}, "test", 0, f.run); err == nil || !strings.Contains(err.Error(), "no plugin\nnot found") {
		t.Errorf("without compose: %v", err)
	}
	f.answers = nil
	if _, err = newDocker(t.Context(), []string{filepath.Join(t.TempDir(), "none.yml")}, "test", 0, f.run); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
}

func TestComposeIsFound(t *testing.T) {
	for _, c := range []struct{ v2, want string }{{"!unknown command", "docker-compose -p test -f "}, {"v2", "docker compose -p test -f "}} {
		d, f := opened(t, map[string]string{"docker compose version": c.v2})
		if err := d.Up(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(f.asked) != 2 || !strings.HasPrefix(f.asked[0], c.want) || !strings.Contains(f.asked[0], " down --volumes") || !strings.Contains(f.asked[1], " up -d") {
			t.Errorf("up is %q", f.asked)
		}
	}
}

// TestPortsAreItsOwn looks for different ports in the environment, of which those
// of HTTP and of the nodes are where clients ask.
func TestPortsAreItsOwn(t *testing.T) {
	d, f := opened(t, nil)
	if err := d.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	ports := map[string]bool{}
	for _, e := range f.env {
		_, port, _ := strings.Cut(e, "=")
		ports[port] = true
	}
	if len(ports) != 8 || len(f.env) != 8 {
		t.Errorf("the environment is %q", f.env)
	}
	for i, id := range d.Servers() {
		port := strings.TrimPrefix(d.URL(id), "http://127.0.0.1:")
		if want := []string{"SCOPE_REGISTRY_HTTP_1=", "SCOPE_REGISTRY_HTTP_2=", "SCOPE_REGISTRY_HTTP_3="}[i] + port; !slices.Contains(f.env, want) {
			t.Errorf("%s is asked at %s, and the environment is %q", id, d.URL(id), f.env)
		}
	}
}

// TestMendBringsTheNamesBack cuts a server off and brings it back: without its
// aliases nobody would find it again.
func TestMendBringsTheNamesBack(t *testing.T) {
	d, f := opened(t, nil)
	if err := d.Cut(t.Context(), "s2"); err != nil {
		t.Fatal(err)
	}
	if err := d.Mend(t.Context(), "s2"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"docker network disconnect test_peers c0ffee", "docker network connect --alias registry-2 --alias registry-2.peers test_peers c0ffee"} {
		if !slices.Contains(f.asked, want) {
			t.Errorf("%q was not asked, but %q", want, f.asked)
		}
	}
	if !strings.Contains(f.asked[0], "label=com.docker.compose.service=registry-2") || !strings.Contains(f.asked[0], "project=test") {
		t.Errorf("the container was looked for by %q", f.asked[0])
	}
	f.answers["docker inspect"] = `[{"NetworkSettings":{"Networks":{}}}]`
	if err := d.Cut(t.Context(), "s2"); err == nil {
		t.Error("a server that is cut off already was cut off")
	}
}

func TestCommands(t *testing.T) {
	d, f := opened(t, nil)
	for want, do := range map[string]func(context.Context, string) error{
		"docker kill --signal KILL c0ffee": d.Kill, "docker stop c0ffee": d.Stop, "docker start c0ffee": d.Start,
		"docker pause c0ffee": d.Pause, "docker unpause c0ffee": d.Resume,
	} {
		if err := do(t.Context(), "s1"); err != nil || f.asked[len(f.asked)-1] != want {
			t.Errorf("asked %q (%v), want %q", f.asked, err, want)
		}
		if err := do(t.Context(), "s9"); err == nil {
			t.Errorf("%s was done to a server that is not there", want)
		}
	}
	f.answers["docker ps"] = "one\ntwo\n"
	if err := d.Kill(t.Context(), "s1"); err == nil {
		t.Error("one of two containers was killed")
	}
}

func TestInspect(t *testing.T) {
	d, f := opened(t, nil)
	got, err := d.Inspect(t.Context(), "s2")
	if want := (history.Machine{State: "running", PID: 42, Peer: "172.21.0.3"}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	f.answers["docker inspect"] = "[]"
	if _, err := d.Inspect(t.Context(), "s2"); err == nil {
		t.Error("no container was inspected")
	}
}

func TestLogs(t *testing.T) {
	d, f := opened(t, map[string]string{"docker-compose": "a line\n"})
	dir := t.TempDir()
	if err := d.Logs(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "s3.log"))
	if err != nil || string(data) != "a line\n" || !strings.HasSuffix(f.asked[2], " registry-3") {
		t.Errorf("s3.log is %q (%v), asked %q", data, err, f.asked)
	}
}
