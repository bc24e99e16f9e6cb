package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/chaos/check"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
)

func small() *history.Run {
	return &history.Run{
		Setup: history.Setup{Seed: 7, Servers: []string{"s1", "s2"}, Target: "a test"},
		Ops: []history.Op{
			{Kind: history.Declare, Server: "s1", Outcome: history.OK, Return: 4 * time.Second},
			{Kind: history.Declare, Server: "s2", Outcome: history.OK, Return: 9 * time.Second},
			{Kind: history.Declare, Server: "s2", Outcome: history.Refused, Code: "STALE_EPOCH", Return: 9 * time.Second},
			{Kind: history.Read, Server: "s2", Outcome: history.Failed, Code: "NO_LEADER", Return: 10 * time.Second},
		},
		Faults: []history.Fault{{Name: history.Kill, Servers: []string{"s1"}, Begin: 5 * time.Second, Active: 6 * time.Second, Heal: 8 * time.Second,
			End: 9 * time.Second, Elected: "s2", ElectedAt: 6 * time.Second, Before: map[string]history.Machine{"s1": {State: "running", PID: 4, Peer: "10.0.0.1"}},
			During: map[string]history.Machine{"s1": {State: "exited"}}, After: map[string]history.Machine{"s1": {State: "running", PID: 5}}}},
	}
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
	for _, want := range []string{
		"a test, seed 7, 10 s of operations",
		"operation ok by s1 by s2 refused failed unknown", "declare 2 1 1 1 0 0", "read 0 0 0 0 1 0",
		"refusals: STALE_EPOCH 1",
		"kill s1 2.0 s s2 after 1.0 s 5.00 s 0, 0, 0",
		"kill of s1: running, process 4, 10.0.0.1 → exited → running, process 5, cut off",
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
