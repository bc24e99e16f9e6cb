package crash

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

const (
	manyScopes = 100_000
	manyNodes  = 100
	// startGoal is what a start with manyScopes may take on a quiet machine.
	startGoal = 10 * time.Second
	// startLimit fails the test; above the goal, since test machines are shared and slowed down by other tests.
	startLimit = 30 * time.Second
)

// scopeFile writes a file of manyNodes nodes and manyScopes scopes.
func scopeFile(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	for i := range manyNodes {
		fmt.Fprintf(&b, "[[cluster.node]]\nid = \"n%d\"\naddr = \"10.0.0.%d:6004\"\n", i, i+1)
	}
	for i := range manyScopes {
		fmt.Fprintf(&b, "[[cluster.scope]]\nprefix = \"tenant:%06d:\"\nwriter = \"n%d\"\nfallback = \"n%d\"\n", i, i%manyNodes, (i+1)%manyNodes)
	}
	name := filepath.Join(t.TempDir(), "many.toml")
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestStartWithManyScopes applies a large file in chunks with the command
// line, stops all servers, and measures how long a start takes.
func TestStartWithManyScopes(t *testing.T) {
	ctx := bounded(t, 4*time.Minute)
	c := opened(ctx, t)
	start := time.Now()
	apply := exec.CommandContext(ctx, binary, "scope", "apply", "-f", scopeFile(t), "--chunks", "--endpoints", c.Endpoints(), "--timeout", "2m")
	if out, err := apply.CombinedOutput(); err != nil {
		t.Fatalf("apply: %v\n%s", err, out[max(0, len(out)-2000):])
	}
	applied := time.Since(start)
	before, err := c.WaitEqual(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if before.Scopes != manyScopes || before.Nodes != manyNodes {
		t.Fatalf("%d scopes and %d nodes after the apply", before.Scopes, before.Nodes)
	}
	start = time.Now()
	var all sync.WaitGroup
	for _, id := range c.IDs() {
		all.Go(func() {
			if err := c.Stop(id); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	stopped := time.Since(start)
	start = time.Now()
	if err := c.StartAll(); err != nil {
		t.Fatal(err)
	}
	after, err := c.WaitEqual(ctx)
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	t.Logf("%d scopes: applied in %.2f s, three servers stopped in %.2f s, started, ready and equal in %.2f s (goal %v)",
		after.Scopes, applied.Seconds(), stopped.Seconds(), took.Seconds(), startGoal)
	if after.Scopes != manyScopes || after.Nodes != manyNodes {
		t.Errorf("%d scopes and %d nodes after the start", after.Scopes, after.Nodes)
	}
	if took > startLimit {
		t.Errorf("the start took %v, the limit is %v and the goal %v", took, startLimit, startGoal)
	}
}
