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
	"github.com/scope-registry/scope-registry/internal/containers"
)

const inspectNode = `[{"Id":"c0ffee","State":{"Status":"running","Pid":42},"NetworkSettings":{"Networks":{
	"test_nodes":{"IPAddress":"172.20.0.2","Aliases":["store-1"]},"test_peers":{"IPAddress":"172.21.0.3","Aliases":["registry-2.peers"]}}}}]`

// TestDocker: servers are cut off from each other, nodes from servers, and each is asked at its own port.
func TestDocker(t *testing.T) {
	file := filepath.Join(t.TempDir(), "compose.yml")
	if err := os.WriteFile(file, []byte("services: {}"), 0o600); err != nil {
		t.Fatal(err)
	}
	var asked []string
	d, err := newDocker(t.Context(), containers.Config{Files: []string{file}, Project: "test", Work: t.TempDir(), Run: func(_ context.Context, c containers.Call) ([]byte, error) {
		asked = append(asked, strings.Join(c.Args, " "))
		switch c.Args[1] {
		case "ps":
			return []byte("c0ffee"), nil
		case "inspect":
			return []byte(inspectNode), nil
		}
		return nil, nil
	}}, 2)
	if err != nil {
		t.Fatal(err)
	}
	if s, n := d.Servers(), d.Nodes(); !slices.Equal(s, []string{"s1", "s2", "s3"}) || !slices.Equal(n, []string{"d1", "d2"}) {
		t.Errorf("servers %v, nodes %v", s, n)
	}
	if s, n := d.URL("s2"), d.URL("d1"); !strings.HasPrefix(s, "https://127.0.0.1:") || !strings.HasPrefix(n, "http://127.0.0.1:") {
		t.Errorf("a server is at %s, a node at %s", s, n)
	}
	server, err1 := d.Inspect(t.Context(), "s2")
	node, err2 := d.Inspect(t.Context(), "d1")
	if err := errors.Join(err1, err2); err != nil || server != (history.Machine{State: "running", PID: 42, Peer: "172.21.0.3"}) ||
		node != (history.Machine{State: "running", PID: 42, Peer: "172.20.0.2", Node: true}) {
		t.Errorf("%+v, %+v, %v", server, node, err)
	}
	if err := errors.Join(d.Cut(t.Context(), "s2"), d.Mend(t.Context(), "s2"), d.Cut(t.Context(), "d1"), d.Mend(t.Context(), "d1")); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"docker network disconnect test_peers c0ffee", "docker network connect --alias registry-2.peers test_peers c0ffee",
		"docker network disconnect test_nodes c0ffee", "docker network connect --alias store-1 test_nodes c0ffee"} {
		if !slices.Contains(asked, want) {
			t.Errorf("%q was not asked, but %q", want, asked)
		}
	}
}
