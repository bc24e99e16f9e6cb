package check

import (
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/chaos/history"
)

// noEffect are faults that were not what their names say.
var noEffect = []struct {
	name, fault, says string
	plant             func(r *rig, f *history.Fault)
}{
	{"killed server runs on", history.Kill, `was "running"`, func(_ *rig, f *history.Fault) { f.During["s1"] = f.Before["s1"] }},
	{"killed server is the same process", history.Kill, "process 1", func(_ *rig, f *history.Fault) { f.After["s1"] = f.Before["s1"] }},
	{"killed server did not lead", history.Kill, "the leader was", func(_ *rig, f *history.Fault) { f.Leader = "s2" }},
	{"nobody else leads", history.Kill, "did not elect", func(_ *rig, f *history.Fault) { f.Elected = "" }},
	{"the others lead only afterwards", history.Kill, "did not elect", func(_ *rig, f *history.Fault) { f.ElectedAt = f.Heal + 1 }},
	{"paused server is not paused", history.Pause, `was "running"`, func(_ *rig, f *history.Fault) { f.During["s1"] = f.Before["s1"] }},
	{"paused server answers a probe", history.Pause, "answered (a probe", func(_ *rig, f *history.Fault) { f.Silent = false }},
	{"paused server answers a client", history.Pause, "answered", func(r *rig, f *history.Fault) {
		r.run.Ops = append(r.run.Ops, history.Op{Server: "s1", Kind: history.Local, Call: f.Active, Return: f.Active + 1, Outcome: history.OK})
	}},
	{"server not cut off", history.Partition, "the address of s1", func(_ *rig, f *history.Fault) { f.During["s1"] = f.Before["s1"] }},
	{"cut off server acknowledges", history.Partition, "answered 1", func(r *rig, f *history.Fault) {
		r.run.Ops = append(r.run.Ops, history.Op{Server: "s1", Kind: history.Declare, Call: f.Active, Return: f.Active + 1, Outcome: history.OK})
	}},
	{"nobody reads at the cut off server", history.Partition, "no client read", func(r *rig, f *history.Fault) { f.Servers = []string{"s3"} }},
	{"nobody asks the cut off server", history.Partition, "no client asked", func(r *rig, _ *history.Fault) {
		for i := range r.run.Ops {
			if r.run.Ops[i].Outcome == history.Failed {
				r.run.Ops[i].Server = "s2"
			}
		}
	}},
	{"nothing is asked of the majority", history.Partition, "acknowledged nothing", func(r *rig, f *history.Fault) {
		for i := range r.run.Ops {
			if op := &r.run.Ops[i]; op.Call > f.Active && op.Return < f.Heal && op.Kind.Mutates() {
				op.Outcome = history.Unknown
			}
		}
	}},
	{"address stays", history.Readdress, "the address of s2", func(_ *rig, f *history.Fault) {
		m := f.After["s2"]
		m.Peer = f.Before["s2"].Peer
		f.After["s2"] = m
	}},
	{"a server is not heard with the new addresses", history.Readdress, "s3 acknowledged nothing", func(r *rig, f *history.Fault) {
		for i := range r.run.Ops {
			if op := &r.run.Ops[i]; op.Call > f.Active && op.Return < f.Heal && op.Server == "s3" {
				op.Outcome = history.Unknown
			}
		}
	}},
	{"no time", history.Kill, "not in force", func(_ *rig, f *history.Fault) { f.Heal = f.Active }},
	{"could not be done", history.Kill, "docker said no", func(_ *rig, f *history.Fault) { f.Error = "docker said no" }},
	{"unknown fault", history.Kill, "nothing is known", func(_ *rig, f *history.Fault) { f.Name = "meteorite" }},
}

func TestFaultWithoutEffectVoidsTheRun(t *testing.T) {
	for _, p := range noEffect {
		t.Run(p.name, func(t *testing.T) {
			r := cleanRun(t)
			p.plant(r, faultNamed(&r.run, p.fault))
			if said := strings.Join(Effect(&r.run).Voids, "\n"); !strings.Contains(said, p.says) {
				t.Errorf("effect says %q, which is not about %q", said, p.says)
			}
		})
	}
	if r := Effect(&history.Run{}); !r.Failed() {
		t.Error("a run without a fault passes")
	}
}

func TestCountsVoidAShortRun(t *testing.T) {
	r := cleanRun(t)
	if got := Counts(&r.run); len(got.Voids) != 4 {
		t.Errorf("a short run gets %q", got.Voids)
	}
	for range MinDeclares {
		r.run.Ops = append(r.run.Ops, *last(&r.run, history.Declare), *last(&r.run, history.Ready), *last(&r.run, history.Abort), *last(&r.run, history.Read))
	}
	if got := Counts(&r.run); got.Failed() {
		t.Errorf("a long run gets %q", got.Voids)
	}
	for i := range r.run.Ops {
		r.run.Ops[i].Server = "s1"
	}
	if got := Counts(&r.run); len(got.Voids) != 2 {
		t.Errorf("a run at one server gets %q", got.Voids)
	}
}

func TestUnavailable(t *testing.T) {
	ack := func(at time.Duration) history.Op {
		return history.Op{Kind: history.Declare, Outcome: history.OK, Return: at * time.Second}
	}
	f := history.Fault{Begin: 10 * time.Second, End: 20 * time.Second}
	for _, c := range []struct {
		acks []history.Op
		want time.Duration
	}{
		{nil, 10},
		{[]history.Op{ack(9), ack(11), ack(12), ack(21)}, 9}, // the gap from 12 to 21
		{[]history.Op{ack(2), ack(11), ack(19)}, 9},          // from 2 to 11
		{[]history.Op{ack(9), ack(13), ack(17), ack(20), ack(50)}, 4},
	} {
		if got := unavailable(&history.Run{Ops: c.acks}, f); got != c.want*time.Second {
			t.Errorf("%v: unavailable for %v, want %v s", c.acks, got, int64(c.want))
		}
	}
}

// TestSearchEndsInTime gives the search no time: it must not pass.
func TestSearchEndsInTime(t *testing.T) {
	if r := Linearizable(&cleanRun(t).run, time.Nanosecond); !r.Failed() || !strings.Contains(r.Violations[0], "-recheck") {
		t.Errorf("a search without time says %+v", r)
	}
}

// TestTurnedAway: who has asked before the fault was in force counts too, if he had no answer for long enough while it was.
func TestTurnedAway(t *testing.T) {
	f := history.Fault{Servers: []string{"s1"}, Active: 10 * time.Second, Heal: 12 * time.Second}
	good := history.Op{Server: "s1", Kind: history.Declare, Outcome: history.Unknown, Call: 9 * time.Second, Return: 11 * time.Second}
	for name, c := range map[string]struct {
		change func(*history.Op)
		want   int
	}{
		"no answer":            {func(*history.Op) {}, 1},
		"an answer afterwards": {func(op *history.Op) { op.Outcome, op.Return = history.OK, 13*time.Second }, 1},
		"an answer":            {func(op *history.Op) { op.Outcome = history.OK }, 0},
		"too short":            {func(op *history.Op) { op.Return -= time.Millisecond }, 0},
		"another server":       {func(op *history.Op) { op.Server = "s2" }, 0},
		"a local read":         {func(op *history.Op) { op.Kind = history.Local }, 0},
		"after it was undone":  {func(op *history.Op) { op.Call, op.Return = 13*time.Second, 15*time.Second }, 0},
		"while it was":         {func(op *history.Op) { op.Call = 10 * time.Second }, 1},
	} {
		op := good
		c.change(&op)
		if im := ImpactOf(&history.Run{Ops: []history.Op{op}}, f); im.Turned != c.want {
			t.Errorf("%s: %d were turned away, want %d", name, im.Turned, c.want)
		}
	}
}
