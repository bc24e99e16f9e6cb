package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

// measuredScopes is what docs/operations.md tells the times of.
const measuredScopes = 100_000

// BenchmarkBackup saves, verifies and restores a state of measuredScopes on three
// servers. Give -benchtime 1x: the numbers are those of its own metrics.
func BenchmarkBackup(b *testing.B) {
	f := newFleet(b, "s1", "s2", "s3")
	f.start(f.peers, "s1", "s2", "s3")
	cl := f.client()
	for i := 0; i < measuredScopes; i += 10_000 {
		batch := api.Batch{}
		if i == 0 {
			batch.Nodes = []api.Node{{ID: "a", Addr: "h:1"}, {ID: "b", Addr: "h:2"}}
			if _, err := cl.Apply(b.Context(), batch); err != nil {
				b.Fatal(err)
			}
			batch.Nodes = nil
		}
		for j := range 10_000 {
			batch.Scopes = append(batch.Scopes, api.Declare{Prefix: fmt.Sprintf("app:%07d:", i+j), Writer: "a", Fallback: "b"})
		}
		if _, err := cl.Apply(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
	file := filepath.Join(f.root, "scopes.backup")
	n := uint64(2)
	for b.Loop() {
		for _, step := range []string{"save " + file + " --force", "verify " + file, fmt.Sprintf("restore %s --yes --incarnation %d", file, n)} {
			began := time.Now()
			var out bytes.Buffer
			args := append(strings.Fields("backup "+step), "--endpoints", f.at(), "--timeout", "60s")
			if code := run(b.Context(), args, strings.NewReader(""), &out, &out); code != 0 {
				b.Fatalf("%s: exit %d\n%s", step, code, out.String())
			}
			verb, _, _ := strings.Cut(step, " ")
			b.ReportMetric(time.Since(began).Seconds(), verb+"-s")
		}
		n++
	}
	info, err := os.Stat(file)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(info.Size()), "file-bytes")
}
