package timeline

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/crash/writes"
)

const sec, ms = time.Second, time.Millisecond

// part is a span without its words.
type part struct {
	from, to time.Duration
	look     Look
}

func parts(spans []Span) []part {
	var all []part
	for _, s := range spans {
		all = append(all, part{s.From, s.To, s.Look})
	}
	return all
}

// row finds a row of the model.
func row(t *testing.T, m Model, name string) Row {
	t.Helper()
	for _, g := range m.Groups {
		for _, r := range g.Rows {
			if r.Name == name {
				return r
			}
		}
	}
	t.Fatalf("there is no row %q in %+v", name, m.Groups)
	return Row{}
}

func says(server, leader string, at time.Duration) history.Op {
	return history.Op{Server: server, Kind: history.Local, Outcome: history.OK, Return: at, Got: history.Got{Leader: leader}}
}

func TestLeaders(t *testing.T) {
	two := []string{"s1", "s2"}
	for _, c := range []struct {
		name string
		ops  []history.Op
		want []part
	}{
		{"nobody says anything", nil, nil},
		{"one leads", []history.Op{says("s1", "s1", 1*sec), says("s2", "s1", 1*sec), says("s1", "s1", 2*sec)}, []part{{1 * sec, 2 * sec, "led0"}}},
		{"others name one that is gone", []history.Op{says("s1", "s1", 1*sec), says("s2", "s1", 3*sec)}, []part{{1 * sec, 1 * sec, "led0"}}},
		{"silence is a gap", []history.Op{says("s1", "s1", 1*sec), says("s1", "s1", 2*sec), says("s1", "s1", 4*sec), says("s1", "s1", 5*sec)},
			[]part{{1 * sec, 2 * sec, "led0"}, {4 * sec, 5 * sec, "led0"}}},
		{"a word that it does not lead is a gap", []history.Op{says("s1", "s1", 1000*ms), says("s1", "", 1200*ms), says("s1", "s1", 1400*ms), says("s1", "s1", 1600*ms)},
			[]part{{1000 * ms, 1000 * ms, "led0"}, {1400 * ms, 1600 * ms, "led0"}}},
		{"the next one ends it", []history.Op{says("s1", "s1", 1*sec), says("s2", "s2", 1500*ms), says("s1", "s1", 2*sec), says("s2", "s2", 2500*ms)},
			[]part{{1 * sec, 1500 * ms, "led0"}, {1500 * ms, 2500 * ms, "led1"}}},
		{"a read that failed says nothing", []history.Op{{Server: "s1", Kind: history.Local, Outcome: history.Failed, Return: sec, Got: history.Got{Leader: "s1"}}}, nil},
	} {
		m := Of(&history.Run{Setup: history.Setup{Servers: two}, Ops: c.ops})
		if got := parts(row(t, m, "leader").Spans); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// TestMachines: each fault is on the rows of those it struck, as what it was.
func TestMachines(t *testing.T) {
	up := history.Machine{State: "running", PID: 1, Peer: "h:1"}
	node := history.Machine{State: "running", PID: 1, Peer: "h:2", Node: true}
	struck := func(name, id string, before, during history.Machine, ways ...history.Way) history.Fault {
		return history.Fault{Name: name, Servers: []string{id}, Begin: 10 * sec, Active: 11 * sec, Heal: 15 * sec, End: 18 * sec,
			Before: map[string]history.Machine{id: before}, During: map[string]history.Machine{id: during}, Ways: ways}
	}
	for _, c := range []struct {
		f    history.Fault
		want Look
	}{
		{struck(history.Kill, "s1", up, history.Machine{State: "exited"}), Gone},
		{struck(history.Pause, "s1", up, history.Machine{State: "paused", PID: 1, Peer: "h:1"}), Paused},
		{struck(history.Partition, "s1", up, history.Machine{State: "running", PID: 1}), Cut},
		{struck(history.DeafLeader, "s1", up, up, history.Way{From: "s2", To: "s1", Cut: true}), Cut},
		{struck(history.SlowLeader, "s1", up, up, history.Way{From: "s1", To: "s2", DelayMS: 9}), Slow},
		{struck(history.Transfer, "s1", up, up, history.Way{From: "s2", To: "s3", Cut: true}), Other},
		{struck(history.CutOwner, "d1", node, history.Machine{State: "running", PID: 1, Node: true}), Cut},
		{struck(history.PauseOwner, "d1", node, history.Machine{State: "paused", PID: 1, Peer: "h:2", Node: true}), Paused},
		{struck(history.Members, "x9", history.Machine{}, up), Other},
	} {
		m := Of(&history.Run{Setup: history.Setup{Servers: []string{"s1", "s2"}, Nodes: []string{"d1"}}, Faults: []history.Fault{c.f}})
		want := []part{{10 * sec, 15 * sec, c.want}, {15 * sec, 18 * sec, Back}}
		if got := parts(row(t, m, c.f.Servers[0]).Spans); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", c.f.Name, got, want)
		}
		if other := row(t, m, "s2"); len(other.Spans) > 0 {
			t.Errorf("%s is shown at s2, which it did not strike: %v", c.f.Name, other.Spans)
		}
		if m.Length != 18*sec || len(m.Faults) != 1 || m.Faults[0].Heal != 15*sec {
			t.Errorf("%s: length %v, faults %+v", c.f.Name, m.Length, m.Faults)
		}
	}
}

func TestScopes(t *testing.T) {
	write := func(scope string, call, back time.Duration, o writes.Outcome) writes.Op {
		return writes.Op{Scope: scope, Outcome: o, Call: int64(call), Return: int64(back)}
	}
	move := func(server, id, prefix, phase string, at time.Duration) history.Seen {
		return history.Seen{Server: server, At: at, Item: api.WatchItem{Changes: []api.Change{{Op: "put", Move: &api.Move{ID: id, Prefix: prefix, From: "d1", Phase: phase}}}}}
	}
	foreign := move("s1", "m4", "p:", "done", 5*sec)
	foreign.Item.Changes[0].Move.From = "elsewhere"
	run := &history.Run{Setup: history.Setup{Nodes: []string{"d1"}, Started: time.Unix(0, 0)},
		Writes: []writes.Op{
			write("p:", 1000*ms, 1010*ms, writes.Acknowledged), write("p:", 1100*ms, 1209*ms, writes.Acknowledged), // 199 ms are short
			write("p:", 1210*ms, 1300*ms, writes.Refused), write("p:", 1310*ms, 1409*ms, writes.Acknowledged), // 200 ms are not
			write("p:", 1410*ms, 2409*ms, writes.Acknowledged),                                                // nor is 1 s
			write("q:", 1000*ms, 1500*ms, writes.Unknown), write("q:", 1600*ms, 1700*ms, writes.Acknowledged), // from the first try, and to the end
		},
		Seen: []history.Seen{move("s1", "m1", "p:", "copying", 1*sec), move("s1", "m1", "p:", "done", 2*sec), move("s2", "m1", "p:", "done", 3*sec),
			move("s2", "m2", "p:", "aborted", 4*sec), foreign}}
	m := Of(run)
	p, q := row(t, m, "p:"), row(t, m, "q:")
	if got, want := parts(p.Spans), []part{{1209 * ms, 1409 * ms, Brief}, {1409 * ms, 2409 * ms, Silent}}; !reflect.DeepEqual(got, want) {
		t.Errorf("p: took no writes in %v, want %v", got, want)
	}
	if got, want := parts(q.Spans), []part{{1000 * ms, 1700 * ms, Brief}, {1700 * ms, 2409 * ms, Brief}}; !reflect.DeepEqual(got, want) {
		t.Errorf("q: took no writes in %v, want %v", got, want)
	}
	if want := []Tick{{2 * sec, Moved}, {4 * sec, Failed}}; !slices.Equal(p.Ticks, want) || len(q.Ticks) != 0 {
		t.Errorf("moves of p: %v, want %v; of q: %v", p.Ticks, want, q.Ticks)
	}
}

func TestCharts(t *testing.T) {
	run := &history.Run{Setup: history.Setup{Nodes: []string{"d1"}, Started: time.Unix(0, 0)}}
	for _, at := range []time.Duration{100 * ms, 200 * ms, 700 * ms, 2 * sec} {
		run.Ops = append(run.Ops, history.Op{Kind: history.Declare, Outcome: history.OK, Return: at},
			history.Op{Kind: history.Declare, Outcome: history.Refused, Return: at}, history.Op{Kind: history.Read, Outcome: history.OK, Return: at})
	}
	run.Writes = []writes.Op{{Outcome: writes.Acknowledged, Return: int64(sec)}, {Outcome: writes.Unknown, Return: int64(sec)}}
	charts := Of(run).Charts
	if len(charts) != 2 || charts[0].Every != 500*ms || !slices.Equal(charts[0].Counts, []int{2, 1, 0, 0, 1}) || !slices.Equal(charts[1].Counts, []int{0, 0, 1, 0, 0}) {
		t.Errorf("%+v", charts)
	}
	run.Ops = append(run.Ops, history.Op{Return: 30 * time.Minute})
	for _, c := range Of(run).Charts {
		if len(c.Counts) > bins+1 {
			t.Errorf("%s of half an hour has %d points", c.Name, len(c.Counts))
		}
	}
}

// TestSVG: the picture of a long and busy run is well-formed and small, and what
// people named is escaped.
func TestSVG(t *testing.T) {
	run := &history.Run{Setup: history.Setup{Servers: []string{"s1"}, Nodes: []string{"d1"}, Started: time.Unix(0, 0)}}
	for i := range 90 {
		at := time.Duration(i) * 6 * sec
		run.Faults = append(run.Faults, history.Fault{Name: history.Kill, Servers: []string{"s1"}, Begin: at, Heal: at + 3*sec, End: at + 4*sec, Error: `<&">`})
	}
	for i := range 6000 { // ten minutes of ten scopes, all with gaps and moves
		at := time.Duration(i/10) * sec
		scope := fmt.Sprintf("<%d>&\"", i%10)
		run.Writes = append(run.Writes, writes.Op{Scope: scope, Outcome: writes.Acknowledged, Call: int64(at), Return: int64(at)})
		run.Seen = append(run.Seen, history.Seen{At: at, Item: api.WatchItem{Changes: []api.Change{
			{Op: "put", Move: &api.Move{ID: fmt.Sprint(i), Prefix: scope, From: "d1", Phase: "done"}}}}})
	}
	text := Of(run).SVG()
	count := map[string]int{}
	d := xml.NewDecoder(strings.NewReader(text))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the picture is not well-formed: %v", err)
		}
		if e, ok := token.(xml.StartElement); ok {
			count[e.Name.Local]++
		}
	}
	if count["svg"] != 1 || count["title"] < 10*590 || len(text) > 1500<<10 {
		t.Errorf("%d bytes, elements: %v", len(text), count)
	}
	if empty := (Model{}).SVG(); !strings.HasSuffix(empty, "</svg>\n") || strings.Contains(empty, "NaN") {
		t.Errorf("an empty run gives %s", empty)
	}
}
