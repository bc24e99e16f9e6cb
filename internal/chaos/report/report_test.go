package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/chaos/check"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/crash/writes"
)

func small() *history.Run {
	s := time.Second
	write := func(o writes.Outcome, at time.Duration) writes.Op {
		return writes.Op{Scope: "p:", Node: "d1", Outcome: o, Call: int64(at), Began: int64(at), Ended: int64(at), Return: int64(at)}
	}
	run := &history.Run{
		Setup: history.Setup{Scenario: "every", Seed: 7, Servers: []string{"s1", "s2"}, Nodes: []string{"d1", "d2"}, Target: "a test", Started: time.Unix(0, 0),
			Command: "make <chaos> & more", Program: history.Program{Version: "v3", Go: "go1"}},
		Ops: []history.Op{
			{Kind: history.Declare, Server: "s1", Outcome: history.OK, Return: 4 * s},
			{Kind: history.Declare, Server: "s2", Outcome: history.OK, Return: 9 * s},
			{Kind: history.Declare, Server: "s2", Outcome: history.Refused, Code: "STALE_EPOCH", Return: 9 * s},
			{Kind: history.Read, Server: "s2", Outcome: history.Failed, Code: "NO_LEADER", Return: 10 * s},
		},
		Faults: []history.Fault{ // not in their order
			{Name: history.KillOwner, Servers: []string{"d1"}, Begin: 9 * s, Active: 9 * s, Heal: 10 * s, End: 10 * s,
				Before: map[string]history.Machine{"d1": {State: "running", PID: 6, Node: true}},
				During: map[string]history.Machine{"d1": {State: "exited"}}, After: map[string]history.Machine{"d1": {State: "running", PID: 7, Node: true}}},
			{Name: history.Kill, Servers: []string{"s1"}, Begin: 5 * s, Active: 6 * s, Heal: 8 * s,
				End: 9 * s, Elected: "s2", ElectedAt: 6 * s, Before: map[string]history.Machine{"s1": {State: "running", PID: 4, Peer: "10.0.0.1"}},
				During: map[string]history.Machine{"s1": {State: "exited"}}, After: map[string]history.Machine{"s1": {State: "running", PID: 5}}},
		},
		Writes:  []writes.Op{write(writes.Acknowledged, 5*s), write(writes.Acknowledged, 8*s), write(writes.Refused, 9*s), write(writes.Unknown, 7*s)},
		Samples: []history.Sample{{Cluster: api.Cluster{Members: []api.Member{{Version: "v2"}, {Version: "v1"}, {Version: "v2"}, {}}}}},
	}
	for i, m := range []api.Move{{Phase: "done", QuiescedMS: 70}, {Phase: "done", QuiescedMS: 20}, {Phase: "done", QuiescedMS: 10}, {Phase: "aborted", Cause: "window"}} {
		m.ID, m.From = fmt.Sprint(i), "d1"
		run.Seen = append(run.Seen, history.Seen{Item: api.WatchItem{Changes: []api.Change{{Op: "put", Move: &m}}}})
	}
	return run
}

func TestVerdict(t *testing.T) {
	good, void := check.Result{Name: "good"}, check.Result{Name: "void", Voids: []string{"nothing"}}
	bad := check.Result{Name: "bad", Violations: []string{"lost"}, Violated: 3}
	for _, c := range []struct {
		checks []check.Result
		ended  error
		want   string
	}{
		{[]check.Result{good}, nil, Pass},
		{[]check.Result{good, void}, nil, Void},
		{[]check.Result{bad, void}, nil, Violation},
		{[]check.Result{void, bad}, nil, Violation},
		{[]check.Result{good}, errors.New("interrupted"), Void},
		{[]check.Result{bad}, errors.New("interrupted"), Violation},
	} {
		if got := Of(small(), c.checks, c.ended).Verdict; got != c.want {
			t.Errorf("%v, %v: %s, want %s", c.checks, c.ended, got, c.want)
		}
	}
}

// TestText looks for each figure in its line, whatever the widths.
func TestText(t *testing.T) {
	r := Of(small(), []check.Result{{Name: "order", Checked: 12, Unit: "operations", Violations: []string{"lost"}, Violated: 3}, {Name: "effect", Voids: []string{"calm"}}},
		errors.New("interrupted"))
	var out bytes.Buffer
	if err := r.Text(&out); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	lines := map[string]bool{}
	for line := range strings.Lines(text) {
		lines[strings.Join(strings.Fields(line), " ")] = true
	}
	if strings.Contains(text, "kill-owner of") {
		t.Error("machines of a fault are told though its effect is shown")
	}
	for _, want := range []string{
		"a test, scenario every, seed 7, 10 s of operations", "versions: servers v1 and v2, chaos program v3, go1",
		"operation ok by s1 by s2 refused failed unknown", "declare 2 1 1 1 0 0", "read 0 0 0 0 1 0",
		"refusals: STALE_EPOCH 1",
		"moves between data nodes: 3 done, without writes for 20 ms (p50) and 70 ms (max)", "aborted moves between data nodes, by cause: window 1",
		"writes at data nodes: 2 acknowledged, 1 refused, 1 unknown",
		"kill s1 2.0 s s2 1.0 s 5.00 s 3.00 s 0 / 0 / 0 0, 0",
		"kill-owner d1 1.0 s - 1.00 s 1.00 s 0 / 1 0, 0",
		"kill of s1: running, process 4, 10.0.0.1 → exited → running, process 5, cut off",
		"kill 1 5.00 s 5.00 s 3.00 s 3.00 s",
		"order 12 operations 3 0 0.00 s",
		"VIOLATION order: lost", "VIOLATION order: and 2 more", "VOID effect: calm", "ENDED EARLY: interrupted", "result: violation",
	} {
		if !lines[want] {
			t.Errorf("no line %q in:\n%s", want, text)
		}
	}
}

func TestJSON(t *testing.T) {
	var out bytes.Buffer
	if err := Of(small(), []check.Result{{Name: "order"}}, nil).JSON(&out); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Verdict string
		Setup   struct{ Seed uint64 }
		Counts  []Count
		Faults  []struct {
			Name   string
			Impact struct {
				Unavailable time.Duration `json:"unavailable_ns"`
			}
		}
		Checks []struct{ Name string }
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Verdict != Pass || got.Setup.Seed != 7 || len(got.Counts) != 4 || got.Counts[0].N != 1 || got.Faults[0].Name != history.Kill ||
		got.Faults[0].Impact.Unavailable != 5*time.Second || got.Checks[0].Name != "order" {
		t.Errorf("%+v from %s", got, out.Bytes())
	}
}
