package rig

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/crash/writes"
	"github.com/scope-registry/scope-registry/internal/load"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func put(cause string, c api.Change) api.Change {
	c.Cause, c.Op = cause, "put"
	return c
}

func moving(phases ...string) *api.Move {
	m := &api.Move{ID: "m", Prefix: "s:", From: "n1", To: "n2", Phase: phases[len(phases)-1]}
	for i, p := range phases {
		m.Stamps = append(m.Stamps, api.Stamp{Phase: p, Index: uint64(10 + i), TimeMS: int64(1000 * (i + 1))})
	}
	return m
}

func item(index uint64, all ...api.Change) api.WatchItem {
	return api.WatchItem{Type: "change", Index: index, Changes: all}
}

func TestTrackerKnowsTheSteps(t *testing.T) {
	tr := NewTracker(func(Tenure) {})
	cleanup := &api.Cleanup{Node: "n1", Prefix: "s:", Epoch: 1, Move: "m"}
	reached := func() (out []Step) {
		for _, s := range Steps() {
			if tr.World().Reached("m", s) {
				out = append(out, s)
			}
		}
		return out
	}
	all := []string{"copying", "quiescing", "shipped", "done"}
	for i := range all {
		tr.Take(item(uint64(10+i), put(all[i], api.Change{Move: moving(all[:i+1]...)})), false)
		if got := reached(); !slices.Equal(got, Steps()[:i+1]) || tr.World().Ended("m") != (i == 3) {
			t.Errorf("after %s: %v", all[i], got)
		}
	}
	tr.Take(item(20, put("cleanup", api.Change{Cleanup: cleanup})), false)
	if got := reached(); len(got) != 4 || len(tr.World().Cleanups) != 1 {
		t.Errorf("with a cleanup pending: %v", got)
	}
	tr.Take(item(21, api.Change{Cause: "cleaned", Op: "delete", Cleanup: cleanup}), false)
	if got := reached(); len(got) != 5 || len(tr.World().Cleanups) != 0 {
		t.Errorf("after the cleanup: %v", got)
	}
}

func TestTrackerTellsTakeovers(t *testing.T) {
	var told []string
	tr := NewTracker(func(te Tenure) { told = append(told, fmt.Sprintf("%s %d %t", te.Owner, te.Token.Epoch, te.Takeover)) })
	owned := func(cause, owner string, epoch uint64) api.Change {
		return put(cause, api.Change{Scope: &api.Scope{Prefix: "s:", Owner: owner, Epoch: epoch, Incarnation: 1}})
	}
	done := moving("quiescing", "shipped", "done")
	done.NewEpoch = 7
	tr.Take(item(1, owned("declare", "n1", 1)), false)
	tr.Take(item(2, owned("arm", "n1", 1)), false)
	tr.Take(item(3, owned("flip", "n2", 2)), false)
	tr.Take(item(4, owned("takeover", "n3", 3)), false)
	tr.Take(item(9, owned("", "n1", 5)), true)                                   // nobody knows how
	tr.Take(item(9, put("", api.Change{Move: done}), owned("", "n2", 7)), true)  // by the move
	tr.Take(item(12, put("", api.Change{Move: done}), owned("", "n2", 7)), true) // nothing new
	want := []string{"n1 1 false", "n2 2 false", "n3 3 true", "n1 5 true", "n2 7 false"}
	if !slices.Equal(told, want) || tr.Resyncs() != 3 {
		t.Errorf("told %q, want %q", told, want)
	}
}

// TestMoveThatDoesNotEnd: it is found when the time is over, and so is one about
// which the command line tells something else.
func TestMoveThatDoesNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Rig{Tracker: NewTracker(func(Tenure) {})}
		r.Tracker.Take(item(10, put("start", api.Change{Move: moving("copying")})), false)
		began := time.Now()
		var res Result
		wrong := r.ended(t.Context(), &res, "m", nil)
		if len(wrong) != 1 || wrong[0].Rule != RuleMove || time.Since(began) != settleTime || !strings.Contains(wrong[0].What, "copying") {
			t.Errorf("after %v: %v", time.Since(began), wrong)
		}
	})
}

func TestCommandMustTellTheSame(t *testing.T) {
	r := &Rig{Config: Config{Dir: t.TempDir(), Programs: load.Programs{Registry: "/bin/false"}}, Tracker: NewTracker(func(Tenure) {})}
	for _, phase := range []string{"done", "aborted"} {
		cli := r.program("x")
		if err := cli.Start(); err != nil {
			t.Fatal(err)
		}
		m := moving(phase)
		m.Shipped, m.Ready = &api.Manifest{Keys: 1}, &api.Manifest{Keys: 1}
		r.Tracker.Take(item(10, put("", api.Change{Move: m})), false)
		var res Result
		if wrong := r.ended(t.Context(), &res, "m", cli); len(wrong) != 1 || wrong[0].Rule != RuleCommand {
			t.Errorf("%s, and exit status 1: %v", phase, wrong)
		}
	}
}

// TestDoneNeedsEqualManifests: a move that is done has two, and they are equal.
func TestDoneNeedsEqualManifests(t *testing.T) {
	r := &Rig{Tracker: NewTracker(func(Tenure) {})}
	res := Result{Case: Case{Victim: Command}}
	for want, ready := range []*api.Manifest{{Keys: 1}, {Keys: 2}, nil} {
		m := moving("done")
		m.Shipped, m.Ready = &api.Manifest{Keys: 1}, ready
		r.Tracker.Take(item(10, put("", api.Change{Move: m})), false)
		if wrong := r.ended(t.Context(), &res, "m", nil); len(wrong) != min(want, 1) {
			t.Errorf("shipped %v, ready %v: %v", m.Shipped, ready, wrong)
		}
	}
}

func TestPhaseAtDeath(t *testing.T) {
	m := *moving("copying", "quiescing", "shipped") // at seconds 1, 2 and 3
	for ms, want := range map[int64]string{500: "not begun", 1000: "copying", 2999: "quiescing", 4000: "shipped"} {
		if got := phaseAt(m, time.UnixMilli(ms)); got != want {
			t.Errorf("at %d ms: %s, want %s", ms, got, want)
		}
	}
	if took(m) != 2*time.Second || took(api.Move{}) != 0 {
		t.Errorf("it took %v", took(m))
	}
}

// TestFrozenIsJudged: what a stopped node says when it goes on.
func TestFrozenIsJudged(t *testing.T) {
	at := func(second float64) time.Time { return time.Unix(0, int64(second*1e9)) }
	op := func(outcome writes.Outcome, epoch uint64, call, ended, ret float64) writes.Op {
		return writes.Op{Outcome: outcome, Token: writes.Token{Incarnation: 1, Epoch: epoch}, Call: at(call).UnixNano(), Ended: at(ended).UnixNano(), Return: at(ret).UnixNano()}
	}
	good := []writes.Op{
		op(writes.Acknowledged, 5, 1, 1.1, 1.2), op(writes.Acknowledged, 5, 1.9, 1.95, 6), op(writes.Unknown, 5, 1.9, 0, 6),
		op(writes.Refused, 5, 1.9, 0, 6), op(writes.Refused, 5, 3, 0, 6), op(writes.Acknowledged, 6, 6, 6.1, 6.2),
	}
	var res Frozen
	if wrong := res.judge(good, 5, at(2), at(5)); len(wrong) > 0 || res.InFlight != 3 || res.Unknown != 1 || res.Refused != 1 || res.Early != 1 || res.Void != "" {
		t.Errorf("%v, %+v", wrong, res)
	}
	res = Frozen{}
	bad := op(writes.Acknowledged, 5, 1.9, 5.1, 6)
	if wrong := res.judge([]writes.Op{bad}, 5, at(2), at(5)); len(wrong) != 1 || wrong[0].Rule != RuleStopped || res.Void == "" {
		t.Errorf("%v, %+v", wrong, res)
	}
}

// TestBook counts attempts by how they ended, and notices strange ones and silence.
func TestBook(t *testing.T) {
	b, err := newBook(filepath.Join(t.TempDir(), "writes.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, op := range []writes.Op{
		{Scope: "s:", Outcome: writes.Acknowledged, Return: now.Add(-time.Minute).UnixNano()},
		{Scope: "s:", Outcome: writes.Unknown, Code: "OUTCOME_UNKNOWN"},
		{Scope: "s:", Outcome: writes.Refused, Code: "INVALID"},
	} {
		b.add(op)
	}
	if counts, strange := b.total(); counts != (Counts{Acknowledged: 1, Refused: 1, Unknown: 1, Strange: 1}) || len(strange) != 1 {
		t.Errorf("counted %+v, strange %q", counts, strange)
	}
	if silent := b.silence("s:", now.Add(-time.Hour), now); silent.Round(time.Second) != 59*time.Minute {
		t.Errorf("the longest silence of the hour before was %v", silent)
	}
	if err := b.close(); err != nil {
		t.Error(err)
	}
}
