//go:build peers

package crash

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

// program runs another program and returns what it printed. One that is missing
// fails the test with how to get it.
func program(ctx context.Context, t *testing.T, stdin []byte, name string, args ...string) []byte {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		debian := map[string]string{"curl": "curl", "promtool": "prometheus", "redis-cli": "redis-tools", "redis-benchmark": "redis-tools",
			"script": "bsdutils", "/usr/bin/python3": "python3"}
		t.Fatalf("%s is missing; on Debian: apt-get install %s", name, debian[name])
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return out
}

// TestPeerCurl drives a server with the real curl, as the README does.
func TestPeerCurl(t *testing.T) {
	ctx := bounded(t, 60*time.Second)
	c := opened(ctx, t)
	nodes(ctx, t, c, "a", "b")
	url := "http://" + c.HTTP("s2")
	put := program(ctx, t, nil, "curl", "-sS", "--fail-with-body", "-X", "PUT", "-H", "Content-Type: application/json",
		"-d", `{"writer":"a","fallback":"b"}`, url+"/v1/scope?prefix=app:billing:")
	var applied api.Applied
	if err := json.Unmarshal(put, &applied); err != nil || applied.Index == 0 || applied.Epoch == 0 {
		t.Fatalf("declare answered %s (%v)", put, err)
	}
	var r api.Route
	got := program(ctx, t, nil, "curl", "-sS", "--fail-with-body", url+"/v1/route?key=app:billing:invoice:42&as=b")
	if err := json.Unmarshal(got, &r); err != nil || r.Reply != "MISDIRECTED writer is 10.0.0.1:6004" {
		t.Fatalf("route answered %s (%v)", got, err)
	}
	// The stream ends by curl's own bound, which is its exit code 28.
	watch := exec.CommandContext(ctx, "curl", "-sSN", "--max-time", "3", url+"/v1/watch")
	out, _ := watch.Output()
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	var first, last api.WatchItem
	if json.Unmarshal(lines[0], &first) != nil || json.Unmarshal(lines[len(lines)-1], &last) != nil {
		t.Fatalf("watch printed %s", out)
	}
	if first.Type != "snapshot" || len(first.Changes) < 3 || last.Type != "heartbeat" || last.Index < applied.Index {
		t.Errorf("watch printed %s", out)
	}
}

// own leaves out raft's and boltdb's series: their names are theirs, and the
// linter does not like them.
func own(metrics []byte) []byte {
	var out bytes.Buffer
	for line := range bytes.Lines(metrics) {
		name := bytes.TrimPrefix(bytes.TrimPrefix(line, []byte("# HELP ")), []byte("# TYPE "))
		if !bytes.HasPrefix(name, []byte("scope_registry_raft_")) {
			out.Write(line)
		}
	}
	return out.Bytes()
}

// perServer matches a metric's name that holds the id of one of the servers.
var perServer = regexp.MustCompile(`(?m)^scope_registry_raft_\w*_s[123]\b`)

// TestPeerPromtool has Prometheus's own linter read /metrics, and looks for the
// series of ours, of raft and of Go.
func TestPeerPromtool(t *testing.T) {
	ctx := bounded(t, 60*time.Second)
	c := opened(ctx, t)
	nodes(ctx, t, c, "a")
	for _, id := range c.IDs() {
		metrics := program(ctx, t, nil, "curl", "-sS", "--fail-with-body", "http://"+c.HTTP(id)+"/metrics")
		program(ctx, t, own(metrics), "promtool", "check", "metrics")
		for _, series := range []string{"scope_registry_index", "scope_registry_raft_fsm_", "go_goroutines"} {
			if !bytes.Contains(metrics, []byte("\n"+series)) {
				t.Errorf("%s: no series %s…", id, series)
			}
		}
		if name := perServer.Find(metrics); name != nil {
			t.Errorf("%s: a server's id is part of a metric's name: %s", id, name)
		}
	}
}
