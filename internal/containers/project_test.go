package containers

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/certs"
)

// fake answers commands by what they begin with, and remembers them.
type fake struct {
	answers map[string]string // an answer that begins with "!" is an error
	env     []string
	asked   []string
}

func (f *fake) run(_ context.Context, c Call) ([]byte, error) {
	line := strings.Join(c.Args, " ")
	f.asked, f.env = append(f.asked, line), c.Env
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

const inspectRunning = `[{"Id":"c0ffee","State":{"Status":"running","Pid":42,"StartedAt":"2026-01-02T03:04:05.6Z"},"Config":{"User":"65532:65532"},
	"HostConfig":{"ReadonlyRootfs":true,"CapDrop":["ALL"],"SecurityOpt":["no-new-privileges:true"],"Memory":1073741824,"PidsLimit":256},"NetworkSettings":{"Networks":{
	"test_clients":{"IPAddress":"172.20.0.2","Aliases":["registry-2"]},
	"test_peers":{"IPAddress":"172.21.0.3","Aliases":["registry-2","registry-2.peers"]}}}}]`

func opened(t *testing.T, answers map[string]string) (*Project, *fake) {
	t.Helper()
	f := &fake{answers: map[string]string{"docker version": "20.10\n", "docker compose version": "!unknown command", "docker ps --all": "c0ffee\n",
		"docker inspect": inspectRunning}}
	for k, v := range answers {
		f.answers[k] = v
	}
	file := filepath.Join(t.TempDir(), "compose.yml")
	if err := os.WriteFile(file, []byte("services: {}"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := New(t.Context(), Config{Files: []string{file}, Project: "test", Work: filepath.Join(t.TempDir(), "work"), Machines: machines(), Run: f.run})
	if err != nil {
		t.Fatal(err)
	}
	f.asked = nil
	return p, f
}

// machines are the servers, and two that publish one port; the last has no certificate.
func machines() []Machine {
	return append(Servers(),
		Machine{ID: "d1", Service: "store-1", Ports: []string{"STORE_1"}, Cert: &certs.Wish{Who: access.Who{Role: access.Node, ID: "d1"}}},
		Machine{ID: "d2", Service: "store-2", Ports: []string{"STORE_2"}})
}

func TestNoDocker(t *testing.T) {
	f := &fake{answers: map[string]string{"docker version": "!Cannot connect to the Docker daemon"}}
	cfg := Config{Files: []string{"compose.yml"}, Project: "test", Run: f.run}
	_, err := New(t.Context(), cfg)
	if err == nil || !strings.Contains(err.Error(), "no docker engine answers: Cannot connect") || !strings.Contains(err.Error(), "apt-get") {
		t.Errorf("without an engine: %v", err)
	}
	f.answers = map[string]string{"docker compose": "!no plugin", "docker-compose": "!not found"}
	if _, err = New(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "no plugin\nnot found") {
		t.Errorf("without compose: %v", err)
	}
	f.answers, cfg.Files = nil, []string{filepath.Join(t.TempDir(), "none.yml")}
	if _, err = New(t.Context(), cfg); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
}

func TestComposeIsFound(t *testing.T) {
	for _, c := range []struct{ v2, want string }{{"!unknown command", "docker-compose -p test -f "}, {"v2", "docker compose -p test -f "}} {
		p, f := opened(t, map[string]string{"docker compose version": c.v2})
		if err := p.Up(t.Context()); err != nil {
			t.Fatal(err)
		}
		if last := len(f.asked) - 1; !strings.HasPrefix(f.asked[1], c.want) || !strings.Contains(f.asked[1], " down --volumes") || !strings.Contains(f.asked[2], " up --no-start") ||
			!strings.Contains(f.asked[last], " up -d") {
			t.Errorf("up is %q", f.asked)
		}
	}
}

// TestInterrupt: a command that has begun comes to its end, and none begins any more.
func TestInterrupt(t *testing.T) {
	p, f := opened(t, nil)
	ctx, interrupt := context.WithCancel(t.Context())
	run := p.cfg.Run
	p.cfg.Run = func(ctx context.Context, c Call) ([]byte, error) {
		if slices.Contains(c.Args, "--no-start") {
			interrupt()
		}
		if err := ctx.Err(); err != nil {
			t.Errorf("%q is cut short: %v", c.Args, err)
		}
		return run(ctx, c)
	}
	if err := p.Up(ctx); !errors.Is(err, context.Canceled) || !strings.Contains(f.asked[len(f.asked)-1], " up --no-start") {
		t.Errorf("interrupted: %v, asked %q", err, f.asked)
	}
	if err := p.Down(t.Context()); err != nil || !strings.Contains(f.asked[len(f.asked)-1], " down --volumes") {
		t.Errorf("down: %v, asked %q", err, f.asked)
	}
}

// TestSomebodyElsesProject: one that runs is neither taken over nor removed, and its logs are not told as ours.
func TestSomebodyElsesProject(t *testing.T) {
	p, f := opened(t, map[string]string{"docker ps --filter": "registry-1\ngate-1\n"})
	err := p.Up(t.Context())
	if err == nil || !strings.HasPrefix(err.Error(), "project test runs already, with registry-1, gate-1: ") || !strings.Contains(err.Error(), "docker-compose -p test -f ") {
		t.Errorf("over one that runs: %v", err)
	}
	said, err := p.LastLogs(t.Context(), 10)
	if err := errors.Join(err, p.Logs(t.Context(), t.TempDir()), p.Down(t.Context())); err != nil || said != "" || len(f.asked) != 1 {
		t.Errorf("%v; logs %q; asked %q", err, said, f.asked)
	}
	f.answers["docker ps --filter"] = "" // now it is what a dead run has left
	if err := p.Up(t.Context()); err != nil || !strings.Contains(f.asked[2], " down --volumes") {
		t.Errorf("over one that does not run: %v, asked %q", err, f.asked)
	}
	f.answers["docker ps --filter"], f.asked = "registry-1\n", nil
	if err := errors.Join(p.Up(t.Context()), p.Down(t.Context())); err != nil || !strings.Contains(f.asked[len(f.asked)-1], " down --volumes") {
		t.Errorf("its own: %v, asked %q", err, f.asked)
	}
}

// TestPortsAreItsOwn looks for different ports in the environment, of which a machine's first is where it is reached.
func TestPortsAreItsOwn(t *testing.T) {
	p, f := opened(t, nil)
	if err := p.Up(t.Context()); err != nil {
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
	for id, name := range map[string]string{"s1": "SCOPE_REGISTRY_HTTP_1=", "s3": "SCOPE_REGISTRY_HTTP_3=", "d2": "STORE_2="} {
		if want := name + strings.TrimPrefix(p.Addr(id), "127.0.0.1:"); !slices.Contains(f.env, want) {
			t.Errorf("%s is reached at %s, and the environment is %q", id, p.Addr(id), f.env)
		}
	}
}

// TestMendBringsTheNamesBack cuts a server off and brings it back: without its
// aliases nobody would find it again.
func TestMendBringsTheNamesBack(t *testing.T) {
	p, f := opened(t, nil)
	if err := p.Cut(t.Context(), "s2", "peers"); err != nil {
		t.Fatal(err)
	}
	if err := p.Mend(t.Context(), "s2", "peers"); err != nil {
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
	if err := p.Cut(t.Context(), "s2", "peers"); err == nil {
		t.Error("a server that is cut off already was cut off")
	}
}

func TestCommands(t *testing.T) {
	p, f := opened(t, nil)
	for want, do := range map[string]func(context.Context, string) error{
		"docker kill --signal KILL c0ffee": p.Kill, "docker stop c0ffee": p.Stop, "docker start c0ffee": p.Start,
		"docker pause c0ffee": p.Pause, "docker unpause c0ffee": p.Resume,
	} {
		if err := do(t.Context(), "s1"); err != nil || f.asked[len(f.asked)-1] != want {
			t.Errorf("asked %q (%v), want %q", f.asked, err, want)
		}
		if err := do(t.Context(), "s9"); err == nil {
			t.Errorf("%s was done to a server that is not there", want)
		}
	}
	f.answers["docker ps --all"] = "one\ntwo\n"
	if err := p.Kill(t.Context(), "s1"); err == nil {
		t.Error("one of two containers was killed")
	}
}

func TestInspect(t *testing.T) {
	p, f := opened(t, nil)
	got, err := p.Inspect(t.Context(), "s2", "peers")
	if want := (State{Status: "running", PID: 42, Address: "172.21.0.3"}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	was, err := p.Life(t.Context(), "s2")
	f.answers["docker inspect"] = strings.Replace(inspectRunning, "05.6Z", "05.7Z", 1)
	if is, err2 := p.Life(t.Context(), "s2"); errors.Join(err, err2) != nil || is == was {
		t.Errorf("started again, with the same process id, it is %q (%v), and was %q (%v)", is, err2, was, err)
	}
	f.answers["docker inspect"] = "[]"
	if _, err := p.Inspect(t.Context(), "s2", "peers"); err == nil {
		t.Error("no container was inspected")
	}
}

// TestRunning: what has ended is told by its name here.
func TestRunning(t *testing.T) {
	p, f := opened(t, map[string]string{"docker ps --filter": "store-1\nregistry-3\nregistry-2\nregistry-1\nstore-2\n"})
	if err := p.Running(t.Context()); err != nil {
		t.Error(err)
	}
	f.answers["docker ps --filter"] = "store-1\nregistry-3\nregistry-1\n"
	if err := p.Running(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "s2, d2 of project test ended") {
		t.Errorf("without two of them: %v", err)
	}
}

// TestPauseIsTriedAgain: runc may give up once, and not for ever; another error is told at once.
func TestPauseIsTriedAgain(t *testing.T) {
	for _, c := range []struct {
		says         string
		fails, asked int
		ok           bool
	}{{"unable to freeze: unknown", 1, 2, true}, {"unable to freeze: unknown", 99, 5, false}, {"is not running", 99, 1, false}} {
		p, f := opened(t, nil)
		asked := 0
		p.cfg.Run = func(ctx context.Context, called Call) ([]byte, error) {
			if called.Args[1] == "pause" {
				if asked++; asked <= c.fails {
					return nil, errors.New(c.says)
				}
			}
			return f.run(ctx, called)
		}
		if err := p.Pause(t.Context(), "s1"); (err == nil) != c.ok || asked != c.asked {
			t.Errorf("%s: %v after %d commands", c.says, err, asked)
		}
	}
}

func TestLogs(t *testing.T) {
	p, f := opened(t, map[string]string{"docker logs": "a line\n"})
	dir := t.TempDir()
	if err := p.claim(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.asked = nil
	p.logged["s3"] = []byte("of an earlier container\n")
	if err := p.Logs(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"s3.log": "of an earlier container\na line\n", "d2.log": "a line\n"} {
		if data, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(data) != want {
			t.Errorf("%s is %q (%v), want %q", name, data, err, want)
		}
	}
	if !strings.HasSuffix(f.asked[4], "service=registry-3") || !strings.HasSuffix(f.asked[8], "service=store-2") {
		t.Errorf("asked %q", f.asked)
	}
	if said, err := p.Log(t.Context(), "s1"); err != nil || said != "a line\n" || f.asked[len(f.asked)-1] != "docker logs --since 2026-01-02T03:04:05.6Z c0ffee" {
		t.Errorf("%q, %v; asked %q", said, err, f.asked[len(f.asked)-1])
	}
	f.answers["docker ps --all"] = ""
	if err := p.Logs(t.Context(), t.TempDir()); err != nil {
		t.Errorf("logs of what was not made yet: %v", err)
	}
}

const inspectExited = `[{"Id":"c0ffee","State":{"Status":"exited"},"Config":{"User":"65532:65531"},
	"NetworkSettings":{"Networks":{"test_clients":{},"test_peers":{"Aliases":["registry-2.peers"]}}},
	"Mounts":[{"Name":"other","Destination":"/tmp"},{"Name":"test_registry-2","Destination":"/data"}]}]`

// TestDisk: what is changed of the copy is what a new container with a new volume gets, and it belongs to the server's user.
func TestDisk(t *testing.T) {
	p, f := opened(t, map[string]string{"docker inspect": inspectExited, "docker logs": "before\n"})
	got := map[string]string{}
	p.cfg.Run = func(ctx context.Context, c Call) ([]byte, error) {
		line := strings.Join(c.Args, " ")
		switch {
		case strings.HasPrefix(line, "docker cp c0ffee:/data "):
			dir := c.Args[3]
			return nil, errors.Join(os.MkdirAll(filepath.Join(dir, "snapshots"), 0o700), os.WriteFile(filepath.Join(dir, "raft.db"), []byte("old"), 0o600),
				os.WriteFile(filepath.Join(dir, "snapshots", "one"), []byte("state"), 0o600))
		case strings.Contains(line, " up --no-start"): // docker-compose connects the new one to the first network only
			f.answers["docker inspect"] = `[{"Id":"c0ffee","NetworkSettings":{"Networks":{"test_clients":{}}}}]`
		case line == "docker cp - c0ffee:/data":
			for r := tar.NewReader(c.In); ; {
				head, err := r.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				data, readErr := io.ReadAll(r)
				if err := errors.Join(err, readErr); err != nil {
					return nil, err
				}
				got[head.Name] = fmt.Sprintf("%d:%d %o %s", head.Uid, head.Gid, head.Mode, data)
			}
		}
		return f.run(ctx, c)
	}
	if err := p.Disk(t.Context(), "s2", func(dir string) error {
		return errors.Join(os.Remove(filepath.Join(dir, "snapshots", "one")), os.WriteFile(filepath.Join(dir, "raft.db"), []byte("new"), 0o600))
	}); err != nil {
		t.Fatal(err)
	}
	if want := map[string]string{"raft.db": "65532:65531 600 new", "snapshots": "65532:65531 700 "}; !maps.Equal(got, want) {
		t.Errorf("the new volume got %q, want %q", got, want)
	}
	var did []string
	for _, line := range f.asked {
		if !strings.HasPrefix(line, "docker ps") && !strings.HasPrefix(line, "docker inspect") {
			did = append(did, line)
		}
	}
	if want := []string{"docker logs c0ffee", "docker rm c0ffee", "docker volume rm test_registry-2"}; len(did) != 6 || !slices.Equal(did[:3], want) ||
		!strings.HasSuffix(did[3], " up --no-start --no-deps registry-2") || did[4] != "docker network connect --alias registry-2.peers test_peers c0ffee" {
		t.Errorf("did %q", did)
	}
	if string(p.logged["s2"]) != "before\n" {
		t.Errorf("of the old container %q is kept", p.logged["s2"])
	}
}

func TestDiskThatCannotBeChanged(t *testing.T) {
	p, f := opened(t, nil)
	touched := func(string) error { return errors.New("it was changed") }
	if err := p.Disk(t.Context(), "s2", touched); err == nil || !strings.Contains(err.Error(), "s2 is running") {
		t.Errorf("of a server that runs: %v", err)
	}
	f.answers["docker inspect"], f.asked = inspectExited, nil
	if err := p.Disk(t.Context(), "s2", touched); err == nil || err.Error() != "it was changed" || !strings.HasPrefix(f.asked[len(f.asked)-1], "docker cp c0ffee:") {
		t.Errorf("a change that fails: %v, asked %q", err, f.asked)
	}
	if _, err := packed(t.TempDir(), "nobody"); err == nil || !strings.Contains(err.Error(), `"nobody"`) {
		t.Errorf("of a user by name: %v", err)
	}
}
