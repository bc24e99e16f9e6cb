package containers

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/certs"
)

// TestEachMachineGetsItsOwnKey: before it starts, and those of nobody else, the authority's least of all.
func TestEachMachineGetsItsOwnKey(t *testing.T) {
	p, f := opened(t, nil)
	given := map[string][]string{} // files by the service that was looked for last
	service, started := "", false
	run := p.cfg.Run
	p.cfg.Run = func(ctx context.Context, c Call) ([]byte, error) {
		line := strings.Join(c.Args, " ")
		if _, name, ok := strings.Cut(line, "compose.service="); ok {
			service = name
		}
		started = started || strings.Contains(line, " up -d")
		if strings.HasPrefix(line, "docker cp - c0ffee:/tls") {
			if started {
				t.Errorf("%s has begun without its certificate", service)
			}
			for r := tar.NewReader(c.In); ; {
				h, err := r.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if h.Uid != 65532 || h.Gid != 65532 || h.Mode != 0o600 {
					t.Errorf("%s of %s has owner %d:%d and mode %o", h.Name, service, h.Uid, h.Gid, h.Mode)
				}
				given[service] = append(given[service], h.Name)
			}
		}
		return run(ctx, c)
	}
	for range 2 { // a run after a run
		clear(given)
		started = false
		if err := p.Up(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string][]string{"registry-1": {"ca.pem", "server-s1.pem", "server-s1.key"}, "registry-2": {"ca.pem", "server-s2.pem", "server-s2.key"},
		"registry-3": {"ca.pem", "server-s3.pem", "server-s3.key"}, "store-1": {"ca.pem", "node-d1.pem", "node-d1.key"}}
	if !maps.EqualFunc(given, want, slices.Equal) {
		t.Errorf("the machines got %v", given)
	}
	source, err := certs.Open(p.Credentials(), nil)
	if err != nil || source.Who() != (access.Who{Role: access.Admin}) {
		t.Errorf("the credentials are %v, %v", p.Credentials(), err)
	}
	f.answers["docker inspect"] = strings.Replace(inspectRunning, `"Memory":1073741824`, `"Memory":0`, 1)
	if err := p.Up(t.Context()); err == nil || !strings.Contains(err.Error(), "lacks mem_limit") {
		t.Errorf("a container that may use all memory: %v", err)
	}
	f.answers["docker inspect"] = strings.NewReplacer(`"ReadonlyRootfs":true`, `"Privileged":true`, "65532:65532", "0:0", `"CapDrop":["ALL"]`, `"CapAdd":["ALL"]`).Replace(inspectRunning)
	if err := p.Up(t.Context()); err == nil || strings.Count(err.Error(), ",") != 2 {
		t.Errorf("a container that may do nearly all: %v", err)
	}
}
