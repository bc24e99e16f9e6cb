package main

import (
	"path/filepath"
	"testing"

	"github.com/scope-registry/scope-registry/internal/overlay"
)

// TestBugsCanBePlanted: each edit still finds its place, so that the list does not
// rot between two runs of the whole.
func TestBugsCanBePlanted(t *testing.T) {
	names := map[string]bool{}
	for _, b := range bugs {
		if _, err := overlay.Write(filepath.Join("..", "..", ".."), t.TempDir(), b.changes()); err != nil || names[b.name] || len(b.edits) == 0 {
			t.Errorf("bug %q: %v", b.name, err)
		}
		names[b.name] = true
	}
}
