package crash

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

// moveScope moves prefix all the way and returns the move as it ended. Every
// step goes to another server.
func moveScope(ctx context.Context, t *testing.T, c *Cluster, prefix, from, to string) api.Move {
	t.Helper()
	ids := c.IDs()
	var m api.Move
	index, err := c.Do(ctx, ids[0], Ask{Method: http.MethodPost, Path: "/v1/moves",
		Body: api.StartMove{Prefix: prefix, From: from, To: to, Mode: "assisted", WindowMS: 30_000}}, &m)
	if err != nil {
		t.Fatalf("start %s -> %s: %v", from, to, err)
	}
	if err := c.Wait(ctx, "the move to quiesce", func(ctx context.Context) error {
		index, err = c.Get(ctx, ids[1], "/v1/moves/"+m.ID, &m, "min_index", strconv.FormatUint(index, 10))
		if err == nil && m.Phase != "quiescing" {
			err = fmt.Errorf("move %s is %s", m.ID, m.Phase)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	body := map[string]api.Manifest{"manifest": {Keys: 3, Bytes: 30}}
	for i, verb := range []string{"shipped", "ready"} {
		if index, err = c.Do(ctx, ids[1+i], Ask{Method: http.MethodPost, Path: "/v1/moves/" + m.ID + "/" + verb, Body: body}, nil); err != nil {
			t.Fatalf("%s: %v", verb, err)
		}
	}
	if _, err := c.Get(ctx, ids[2], "/v1/moves/"+m.ID, &m, "min_index", strconv.FormatUint(index, 10)); err != nil {
		t.Fatal(err)
	}
	if m.Phase != "done" || m.NewEpoch <= m.Epoch {
		t.Fatalf("move ended as %+v", m)
	}
	owned(ctx, t, c, prefix, to, m.NewEpoch, index)
	return m
}

// owned fails unless every server routes a key of the scope to owner, once it
// has applied index.
func owned(ctx context.Context, t *testing.T, c *Cluster, prefix, owner string, epoch, index uint64) {
	t.Helper()
	for _, id := range c.IDs() {
		var r api.Route
		if _, err := c.Get(ctx, id, "/v1/route", &r, "key", prefix+"x", "as", owner, "min_index", strconv.FormatUint(index, 10)); err != nil {
			t.Fatalf("%s: %v", id, err)
		}
		if r.Verdict != "OWNED" || r.Reply != "OK" || r.Owner != owner || r.Epoch != epoch {
			t.Fatalf("%s routes %s to %+v, want owner %s with epoch %d", id, prefix, r, owner, epoch)
		}
	}
}

func cleaned(ctx context.Context, t *testing.T, c *Cluster, move string) {
	t.Helper()
	body := map[string]string{"reason": "the old copy is deleted"}
	if _, err := c.Do(ctx, c.IDs()[1], Ask{Method: http.MethodPost, Path: "/v1/moves/" + move + "/cleaned", Body: body}, nil); err != nil {
		t.Fatal(err)
	}
}

// TestMoveThereAndBack moves a scope to another node and back on servers that
// are not restarted in between.
func TestMoveThereAndBack(t *testing.T) {
	ctx := bounded(t, time.Minute)
	c := opened(ctx, t)
	nodes(ctx, t, c, "a", "b")
	if _, err := declare(ctx, c, c.IDs()[1], "", "app:", "a"); err != nil {
		t.Fatal(err)
	}
	epoch := uint64(0)
	for range 2 {
		for _, way := range [][2]string{{"a", "b"}, {"b", "a"}} {
			m := moveScope(ctx, t, c, "app:", way[0], way[1])
			if m.NewEpoch <= epoch {
				t.Fatalf("epoch %d after %d", m.NewEpoch, epoch)
			}
			epoch = m.NewEpoch
			cleaned(ctx, t, c, m.ID)
		}
	}
	if _, err := c.WaitEqual(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestMoveSurvivesTheLossOfAll kills all servers right after a move was
// acknowledged as done.
func TestMoveSurvivesTheLossOfAll(t *testing.T) {
	ctx := bounded(t, time.Minute)
	c := opened(ctx, t)
	nodes(ctx, t, c, "a", "b")
	if _, err := declare(ctx, c, c.IDs()[2], "", "app:", "a"); err != nil {
		t.Fatal(err)
	}
	m := moveScope(ctx, t, c, "app:", "a", "b")
	for _, id := range c.IDs() {
		if err := c.Kill(id); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.StartAll(); err != nil {
		t.Fatal(err)
	}
	status, err := c.WaitEqual(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if status.Cleanups != 1 || status.Moves != 0 {
		t.Errorf("%d cleanups and %d running moves after the restart, want 1 and 0", status.Cleanups, status.Moves)
	}
	owned(ctx, t, c, "app:", "b", m.NewEpoch, 0)
	var after api.Move
	if _, err := c.Get(ctx, c.IDs()[0], "/v1/moves/"+m.ID, &after); err != nil || after.Phase != "done" || after.NewEpoch != m.NewEpoch {
		t.Errorf("move %s is %+v after the restart (%v), and was %+v", m.ID, after, err, m)
	}
}
