package check

import (
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/crash/writes"
)

// proofName is the name of a method of Result.
func proofName(p proof) string {
	name := runtime.FuncForPC(reflect.ValueOf(p).Pointer()).Name()
	return name[strings.LastIndex(name, ".")+1:]
}

func proves(fault string) []string {
	var names []string
	for _, p := range proofs[fault] {
		names = append(names, proofName(p))
	}
	return names
}

// struckBy are the machines that each fault strikes in [effective]; s1 leads.
func struckBy(fault string) []string {
	switch fault {
	case history.KillAll, history.Rolling, history.SlowAll, history.LossyAll, history.FullDisk:
		return []string{"s1", "s2", "s3"}
	case history.KillMajority, history.Readdress:
		return []string{"s1", "s2"}
	case history.KillFollower, history.PauseFollower, history.CutFollower, history.Transfer, history.Wipe, history.FlipLog, history.FlipSnapshot:
		return []string{"s2"}
	case history.Members:
		return []string{"s4"}
	case history.KillNodes:
		return []string{"d1", "d2"}
	case history.KillOwner, history.KillTarget, history.PauseOwner, history.CutOwner:
		return []string{"d1"}
	default:
		return []string{"s1"}
	}
}

// seen is a history of one fault with what clients did while it was in force.
type seen struct {
	run history.Run
	f   history.Fault
}

func (s *seen) lacks() string { return strings.Join(Lacks(s.f, ImpactOf(&s.run, s.f)), "\n") }

// asks records an operation that was answered while the fault was in force, unless it failed.
func (s *seen) asks(server string, k history.Kind, o history.Outcome) {
	s.run.Ops = append(s.run.Ops, history.Op{Server: server, Kind: k, Outcome: o, Call: 12 * time.Second, Return: 13 * time.Second})
}

// drop takes the operations out that fit.
func (s *seen) drop(fits func(history.Op) bool) { s.run.Ops = slices.DeleteFunc(s.run.Ops, fits) }

func (s *seen) writes(o writes.Outcome) {
	at := s.run.Setup.Started.UnixNano() + int64(12*time.Second)
	s.run.Writes = append(s.run.Writes, writes.Op{Scope: "p:", Node: "d1", Outcome: o, Call: at, Began: at, Ended: at + 1, Return: at + 1})
}

// during changes what was seen of the first struck machine while the fault lasted.
func (s *seen) during(change func(*history.Machine)) {
	m := s.f.During[s.f.Servers[0]]
	change(&m)
	s.f.During[s.f.Servers[0]] = m
}

func (s *seen) after(change func(*history.Machine)) {
	m := s.f.After[s.f.Servers[0]]
	change(&m)
	s.f.After[s.f.Servers[0]] = m
}

// effective is a fault with all that its proofs want, and nothing else.
func effective(name string) *seen {
	machines := func() map[string]history.Machine {
		all := map[string]history.Machine{}
		for i, id := range []string{"s1", "s2", "s3"} {
			all[id] = history.Machine{State: "running", PID: i + 1, Peer: "10.0.0." + id[1:]}
		}
		for i, id := range []string{"d1", "d2"} {
			all[id] = history.Machine{State: "running", PID: i + 11, Peer: "10.0.1." + id[1:], Node: true}
		}
		return all
	}
	s := &seen{f: history.Fault{Name: name, Servers: struckBy(name), Leader: "s1", Before: machines(), During: machines(), After: machines(),
		Begin: 10 * time.Second, Active: 11 * time.Second, Heal: 20 * time.Second, End: 21 * time.Second}}
	s.run.Setup = history.Setup{Servers: []string{"s1", "s2", "s3"}, Nodes: []string{"d1", "d2"}, Started: time.Unix(1700000000, 0)}
	names := proves(name)
	if !slices.Contains(names, "nobodyServed") {
		for _, id := range []string{"s1", "s2", "s3"} {
			if id == "s3" || name == history.Readdress {
				s.asks(id, history.Declare, history.OK)
			}
		}
	}
	for _, p := range names {
		s.satisfy(p)
	}
	return s
}

// satisfy adds what one proof wants.
func (s *seen) satisfy(proof string) {
	first := s.f.Servers[0]
	switch proof {
	case "exited":
		for i, id := range s.f.Servers {
			s.f.During[id], s.f.After[id] = history.Machine{State: "exited"}, history.Machine{State: "running", PID: 101 + i}
		}
	case "stopped":
		s.f.During[first] = history.Machine{State: "exited"}
	case "stoodStill":
		s.during(func(m *history.Machine) { m.State = "paused" })
	case "silent":
		s.f.Silent = true
	case "said":
		s.f.Said = "the log is damaged"
	case "leaderLost":
		s.f.Elected, s.f.ElectedAt = "s3", 12*time.Second
	case "transferred":
		s.f.Elected, s.f.ElectedAt = "s2", 12*time.Second
	case "nobodyServed":
		s.asks(first, history.Read, history.Failed)
	case "askedThere":
		s.asks(first, history.Read, history.Failed)
		s.asks(first, history.Local, history.OK)
	case "cutOff":
		s.during(func(m *history.Machine) { m.Peer = "" })
	case "carriedNothing":
		s.f.Ways = []history.Way{{From: first, To: "s3", Cut: true, Active: 10, Heal: 10}}
	case "slow", "lossy":
		s.f.Ways = []history.Way{{From: first, To: "s3", DelayMS: 50, SlowestMS: 50, Active: 10, Heal: 11}}
	case "slowed":
		s.run.Ops = append(s.run.Ops, history.Op{Server: "s2", Kind: history.Declare, Outcome: history.OK, Call: 12 * time.Second, Return: 12*time.Second + leastSlow*time.Millisecond})
	case "limited":
		s.run.Ops = append(s.run.Ops, history.Op{Server: "s2", Kind: history.Declare, Outcome: history.Failed, Code: api.Limit, Call: 12 * time.Second, Return: 13 * time.Second})
		s.asks("s2", history.Read, history.OK)
	case "grew":
		s.f.Voters = 4
	case "wroteNothing":
		s.writes(writes.Refused)
	case "wroteOn":
		s.writes(writes.Acknowledged)
	case "readdressed":
		for i, id := range s.f.Servers {
			s.f.After[id] = history.Machine{State: "running", PID: 101 + i, Peer: "10.0.2." + id[1:]}
		}
	}
}

func TestEveryFaultCanBeShown(t *testing.T) {
	for name := range proofs {
		if said := effective(name).lacks(); said != "" {
			t.Errorf("%s: %s", name, said)
		}
	}
}

// TestTogether: what clients noticed of a fault shows nothing, and need not be, when others are done at the same time.
func TestTogether(t *testing.T) {
	for name := range proofs {
		s := effective(name)
		s.f.Together, s.run.Ops, s.run.Writes = true, nil, nil
		if said := s.lacks(); said != "" {
			t.Errorf("%s: %s", name, said)
		}
	}
}

// lack takes something away that a proof wants; says is a word of what it finds then.
type lack struct {
	says  string
	plant func(*seen)
}

func runsOn(s *seen) {
	s.during(func(m *history.Machine) { *m = s.f.Before[s.f.Servers[0]] })
}

func acked(op history.Op) bool   { return op.Kind == history.Declare }
func refused(op history.Op) bool { return op.Outcome == history.Failed }

// lacking is, by proof, each way in which it can fail.
var lacking = map[string][]lack{
	"exited": {
		{`was "running"`, runsOn},
		{"is process", func(s *seen) { s.f.After[s.f.Servers[0]] = s.f.Before[s.f.Servers[0]] }},
		{"is process 0", func(s *seen) { s.after(func(m *history.Machine) { m.PID = 0 }) }},
	},
	"stopped": {{`was "running"`, runsOn}},
	"stoodStill": {
		{`was "running"`, runsOn},
		{"process 99 after", func(s *seen) { s.after(func(m *history.Machine) { m.PID = 99 }) }},
		{`is "exited" afterwards`, func(s *seen) { s.after(func(m *history.Machine) { m.State = "exited" }) }},
	},
	"silent": {
		{"answered (a probe: true", func(s *seen) { s.f.Silent = false }},
		{"local reads: 1", func(s *seen) { s.asks(s.f.Servers[0], history.Local, history.OK) }},
	},
	"said": {{"said nothing", func(s *seen) { s.f.Said = "" }}},
	"leaderLost": {
		{`the leader was "s2"`, func(s *seen) { s.f.Leader = "s2" }},
		{"did not elect", func(s *seen) { s.f.Elected = "" }},
		{"did not elect", func(s *seen) { s.f.Elected = "s1" }},
		{"did not elect", func(s *seen) { s.f.ElectedAt = s.f.Heal + 1 }},
		{"did not elect", func(s *seen) { s.f.ElectedAt = s.f.Begin - 1 }},
		{"answered 1 changes", func(s *seen) { s.asks("s1", history.Read, history.OK) }},
		{"acknowledged nothing", func(s *seen) { s.drop(acked) }},
	},
	"transferred": {
		{`"s3" leads`, func(s *seen) { s.f.Elected = "s3" }},
		{`"s2" leads, and "s2" did`, func(s *seen) { s.f.Leader = "s2" }},
	},
	"servedOn": {{"nobody acknowledged", func(s *seen) { s.drop(acked) }}},
	"nobodyServed": {
		{"without a majority", func(s *seen) { s.asks("s3", history.Declare, history.OK) }},
		{"no client asked", func(s *seen) { s.drop(refused) }},
	},
	"askedThere": {
		{"no client read", func(s *seen) { s.drop(func(op history.Op) bool { return op.Kind == history.Local }) }},
		{"no client asked", func(s *seen) { s.drop(refused) }},
		{"answered 1 changes", func(s *seen) { s.asks(s.f.Servers[0], history.Read, history.OK) }},
	},
	"cutOff": {
		{"the address of", runsOn},
		{"the address of", func(s *seen) { s.after(func(m *history.Machine) { m.Peer = "" }) }},
		{"process 99 after", func(s *seen) { s.during(func(m *history.Machine) { m.PID = 99 }) }},
		{`was "exited"`, func(s *seen) { s.during(func(m *history.Machine) { m.State = "exited" }) }},
		{"5 bytes passed", func(s *seen) { s.f.Ways = []history.Way{{Cut: true, Active: 10, Heal: 15}} }},
	},
	"carriedNothing": {
		{"no link", func(s *seen) { s.f.Ways = nil }},
		{"5 bytes passed", func(s *seen) { s.f.Ways[0].Heal += 5 }},
	},
	"slow": {
		{"no link", func(s *seen) { s.f.Ways = nil }},
		{"longer than 49 ms", func(s *seen) { s.f.Ways[0].SlowestMS = 49 }},
		{"0 were to be waited", func(s *seen) { s.f.Ways[0].DelayMS = 0 }},
		{"nothing passed", func(s *seen) { s.f.Ways[0].Heal = s.f.Ways[0].Active }},
		{"nothing came late", func(s *seen) { s.f.Together, s.f.Ways[0].SlowestMS = true, 49 }},
	},
	"lossy": {
		{"nothing came late", func(s *seen) { s.f.Ways = nil }},
		{"nothing came late", func(s *seen) { s.f.Ways[0].SlowestMS = 49 }},
		{"nothing came late", func(s *seen) { s.f.Ways[0].Heal = s.f.Ways[0].Active }},
	},
	"slowed": {
		{"nobody acknowledged", func(s *seen) { s.drop(acked) }},
		{"longer than 1 ms", func(s *seen) {
			for i := range s.run.Ops {
				s.run.Ops[i].Return = s.run.Ops[i].Call + time.Millisecond
			}
		}},
	},
	"limited": {
		{"no change was refused", func(s *seen) { s.drop(refused) }},
		{"no linearizable read", func(s *seen) { s.drop(func(op history.Op) bool { return op.Kind == history.Read }) }},
	},
	"everyServer": {{"s3 was left out", func(s *seen) { s.f.Servers = s.f.Servers[:2] }}},
	"everyNode":   {{"d2 was left out", func(s *seen) { s.f.Servers = s.f.Servers[:1] }}},
	"grew":        {{"at most 3 servers voted", func(s *seen) { s.f.Voters = 3 }}},
	"wroteNothing": {
		{"accepted 1 writes", func(s *seen) { s.writes(writes.Acknowledged) }},
		{"no client wrote", func(s *seen) { s.run.Writes = nil }},
	},
	"wroteOn": {{"no client wrote", func(s *seen) { s.run.Writes = nil }}},
	"readdressed": {
		{`the address of s1 is "10.0.0.1"`, func(s *seen) { s.after(func(m *history.Machine) { m.Peer = "10.0.0.1" }) }},
		{"process 1 after 1", func(s *seen) { s.after(func(m *history.Machine) { m.PID = 1 }) }},
		{"only one server", func(s *seen) { s.f.Servers = s.f.Servers[:1] }},
		{"s3 acknowledged nothing", func(s *seen) { s.drop(func(op history.Op) bool { return op.Server == "s3" }) }},
	},
}

// TestEachLackVoids takes away, of every fault, one thing after the other that its proofs want.
func TestEachLackVoids(t *testing.T) {
	used := map[string]bool{}
	for name := range proofs {
		for _, proof := range proves(name) {
			used[proof] = true
			if len(lacking[proof]) == 0 {
				t.Errorf("%s: nothing is known that %s could lack", name, proof)
			}
			for _, l := range lacking[proof] {
				s := effective(name)
				l.plant(s)
				if said := s.lacks(); !strings.Contains(said, l.says) {
					t.Errorf("%s, %s: it says %q, which is not about %q", name, proof, said, l.says)
				}
			}
		}
	}
	for proof := range lacking {
		if !used[proof] {
			t.Errorf("no fault is shown by %s", proof)
		}
	}
}

func TestSilentWrites(t *testing.T) {
	f := history.Fault{Begin: 10 * time.Second, End: 20 * time.Second}
	write := func(scope string, at int64) writes.Op {
		return writes.Op{Scope: scope, Outcome: writes.Acknowledged, Return: at * int64(time.Second)}
	}
	for _, c := range []struct {
		name string
		all  []writes.Op
		want time.Duration
	}{
		{"none", nil, 0},
		{"a gap within", []writes.Op{write("p:", 9), write("p:", 12), write("p:", 17), write("p:", 21)}, 5},
		{"from the begin on", []writes.Op{write("p:", 2), write("p:", 14), write("p:", 17), write("p:", 20)}, 4},
		{"until after the end", []writes.Op{write("p:", 9), write("p:", 11), write("p:", 28)}, 17},
		{"after the end only", []writes.Op{write("p:", 9), write("p:", 15), write("p:", 20), write("p:", 50)}, 5},
		{"one scope of two", []writes.Op{write("p:", 9), write("q:", 10), write("q:", 13), write("p:", 16), write("q:", 16), write("p:", 20), write("q:", 20)}, 6},
		{"never again", []writes.Op{write("p:", 9), write("q:", 10), write("q:", 15), write("q:", 20)}, 10},
	} {
		if got := silentWrites(&history.Run{Setup: history.Setup{Started: time.Unix(0, 0)}, Writes: c.all}, f); got != c.want*time.Second {
			t.Errorf("%s: %v, want %d s", c.name, got, c.want)
		}
	}
}
