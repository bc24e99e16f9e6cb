package gates

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/crash/rig"
)

// struck is a deployment whose machines are killed; deaf ones live on.
type struck struct {
	Deployment
	deaf  bool
	lives int
	did   []string
	kill  func()
}

func (s *struck) Life(context.Context, string) (string, error) {
	return fmt.Sprintf("process %d", s.lives), nil
}

func (s *struck) Kill(_ context.Context, machine string) error {
	s.did = append(s.did, "kill "+machine)
	s.kill()
	return nil
}

func (s *struck) Start(_ context.Context, machine string) error {
	s.did = append(s.did, "start "+machine)
	if !s.deaf {
		s.lives++
	}
	return nil
}

// TestKill: a kill is one only if the victim's life has ended, and hits only if the move had not.
func TestKill(t *testing.T) {
	for _, c := range []struct {
		name      string
		deaf, hit bool
		phase     string // of the move when the victim is gone
		err       string
	}{
		{name: "within the move", phase: "copying", hit: true},
		{name: "after the move", phase: "done"},
		{name: "of nobody", phase: "copying", deaf: true, hit: true, err: "gate of n1 was killed and lives on"},
	} {
		synctest.Test(t, func(t *testing.T) {
			tracker := rig.NewTracker(func(rig.Tenure) {})
			comes := func(phase string) {
				tracker.Take(api.WatchItem{Changes: []api.Change{{Op: "put", Move: &api.Move{ID: "m0001", Phase: phase}}}}, false)
			}
			comes("copying")
			d := &struck{deaf: c.deaf, kill: func() { comes(c.phase) }}
			r := &Rig{deployment: d, Tracker: tracker}
			out := Result{Step: rig.Begun, Victim: SourceGate}
			err := r.kill(t.Context(), &out, "m0001", Node{ID: "n1"}, Node{ID: "n2"})
			if (err == nil) != (c.err == "") || err != nil && !strings.HasPrefix(err.Error(), c.err) {
				t.Errorf("%s: %v, want %q", c.name, err, c.err)
			}
			if want := []string{"kill gate of n1", "start gate of n1"}; out.Hit != c.hit || !slices.Equal(d.did, want) {
				t.Errorf("%s: hit %t, did %q", c.name, out.Hit, d.did)
			}
		})
	}
}
