package fault

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/direct"
)

// fake is a cluster whose leader is the first server that is whole.
type fake struct {
	mu       sync.Mutex // guards the rest
	machines map[string]history.Machine
	urls     map[string]string
	asked    []string
	free     []string // addresses, lowest first
	fail     string   // command that fails
	wanted   string   // whom an operator made the leader
	refuses  int      // changes that are refused before one is acknowledged
	took     []string // servers that have acknowledged a change
}

func (f *fake) Nodes() []string { return nil }

func (f *fake) Servers() []string                        { return []string{"s1", "s2", "s3"} }
func (f *fake) URL(s string) string                      { return f.urls[s] }
func (f *fake) Up(context.Context) error                 { return nil }
func (f *fake) Down(context.Context) error               { return nil }
func (f *fake) Logs(context.Context, string) error       { return nil }
func (f *fake) String() string                           { return "fake" }
func (f *fake) Kill(_ context.Context, s string) error   { return f.do("kill", s) }
func (f *fake) Stop(_ context.Context, s string) error   { return f.do("stop", s) }
func (f *fake) Start(_ context.Context, s string) error  { return f.do("start", s) }
func (f *fake) Pause(_ context.Context, s string) error  { return f.do("pause", s) }
func (f *fake) Resume(_ context.Context, s string) error { return f.do("resume", s) }
func (f *fake) Cut(_ context.Context, s string) error    { return f.do("cut", s) }
func (f *fake) Mend(_ context.Context, s string) error   { return f.do("mend", s) }

func (f *fake) Inspect(_ context.Context, s string) (history.Machine, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m, ok := f.machines[s]
	if !ok {
		return m, errors.New("no such container")
	}
	return m, nil
}

func (f *fake) do(what, s string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, what+" "+s)
	if f.fail == what {
		return errors.New(what + " does not work")
	}
	m := f.machines[s]
	switch what {
	case "kill", "stop":
		f.free = append(f.free, m.Peer)
		slices.SortFunc(f.free, compareAddresses)
		m = history.Machine{State: "exited"}
	case "start":
		m = history.Machine{State: "running", PID: 100 + len(f.asked), Peer: f.free[0]}
		f.free = f.free[1:]
	case "pause":
		m.State = "paused"
	case "resume":
		m.State = "running"
	case "cut":
		m.Peer = ""
	case "mend":
		m.Peer = "10.0.0.99"
	}
	f.machines[s] = m
	return nil
}

func (f *fake) lead(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wanted, f.asked = id, append(f.asked, "lead "+id)
}

func (f *fake) Readdresses() bool { return true }

// answer is what a server answers to every question, and to changes.
func (f *fake) answer(s string, w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.machines[s].State != "running" {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set(api.HeaderIndex, "1")
	if r.URL.Path == "/v1/apply" {
		if f.refuses == 0 {
			f.took = append(f.took, s)
			return
		}
		f.refuses--
		w.WriteHeader(http.StatusInsufficientStorage)
		_ = json.NewEncoder(w).Encode(api.Error{Code: api.Limit, Detail: "the disks of 2 of 3 servers are nearly full"})
		return
	}
	if f.machines[s].Peer == "" {
		return
	}
	for _, id := range append([]string{f.wanted}, f.Servers()...) {
		if m := f.machines[id]; m.State == "running" && m.Peer != "" {
			w.Header().Set(api.HeaderLeader, id)
			return
		}
	}
}

func newEnv(t *testing.T) (*Env, *fake) {
	t.Helper()
	f := &fake{machines: map[string]history.Machine{}, urls: map[string]string{}}
	start := time.Now()
	e := &Env{Target: f, Servers: map[string]*direct.Server{}, Now: func() time.Duration { return time.Since(start) },
		Say: func(string, ...any) {}, Hold: 10 * time.Millisecond, Heal: readyTime}
	for i, s := range f.Servers() {
		f.machines[s] = history.Machine{State: "running", PID: i + 1, Peer: []string{"10.0.0.9", "10.0.0.10", "10.0.0.11"}[i]}
		ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v1/cluster/transfer" {
				var to struct{ To string }
				_ = json.NewDecoder(r.Body).Decode(&to)
				f.lead(to.To)
			}
			f.answer(s, w, r)
		}))
		t.Cleanup(ts.Close)
		f.urls[s] = ts.URL
		e.Servers[s] = direct.New(s, ts.URL, nil)
		t.Cleanup(e.Servers[s].Close)
	}
	return e, f
}

// what each fault asks of a target that has servers, and nothing else. The order is the seed's.
var asked = map[string]string{
	history.Kill: "kill s1, start s1", history.Pause: "pause s1, resume s1", history.Partition: "cut s1, mend s1",
	history.KillFollower: "kill s3, start s3", history.PauseFollower: "pause s3, resume s3", history.CutFollower: "cut s3, mend s3",
	history.KillMajority: "kill s1, kill s2, start s1, start s2", history.KillAll: "kill s1, kill s2, kill s3, start s3, start s1, start s2",
	history.Rolling: "stop s2, start s2, stop s3, start s3, stop s1, start s1", history.Transfer: "lead s3",
	history.Readdress: "stop s1, stop s2, start s2, start s1", // the one with the higher address first
}

func TestFaults(t *testing.T) {
	done := map[string]bool{}
	for _, kind := range All() {
		e, f := newEnv(t)
		if !kind.Possible(f) {
			continue
		}
		done[kind.Name] = true
		t.Run(kind.Name, func(t *testing.T) {
			rec := e.Run(t.Context(), kind, false)
			if rec.Error != "" || rec.Name != kind.Name || rec.Leader != "s1" || len(rec.Servers) == 0 {
				t.Fatalf("recorded %+v", rec)
			}
			if got := strings.Join(f.asked, ", "); got != asked[kind.Name] {
				t.Errorf("did %s, want %s", got, asked[kind.Name])
			}
			if rec.Active < rec.Begin || rec.Heal <= rec.Active || rec.End < rec.Heal || kind.Name != history.Rolling && rec.Heal-rec.Active < e.Hold {
				t.Errorf("times %v, %v, %v, %v", rec.Begin, rec.Active, rec.Heal, rec.End)
			}
			recorded(t, rec)
		})
	}
	if len(done) != len(asked) {
		t.Errorf("did %v", done)
	}
}

// recorded looks at what a fault has recorded besides its times.
func recorded(t *testing.T, rec history.Fault) {
	t.Helper()
	s := rec.Servers[0]
	switch rec.Name {
	case history.Readdress:
		for _, s := range rec.Servers {
			if rec.After[s].Peer == rec.Before[s].Peer {
				t.Errorf("%s is still at %s", s, rec.After[s].Peer)
			}
		}
	case history.Kill, history.Pause, history.Partition:
		if rec.Elected != "s2" || rec.ElectedAt < rec.Active || rec.ElectedAt > rec.Heal {
			t.Errorf("elected %q at %v", rec.Elected, rec.ElectedAt)
		}
		if rec.Silent != (rec.Name != history.Partition) || rec.During[s] == rec.Before[s] {
			t.Errorf("silent %v, during %+v", rec.Silent, rec.During)
		}
	case history.Transfer:
		if rec.Elected != s {
			t.Errorf("%q leads", rec.Elected)
		}
	default:
		if rec.During[s] == rec.Before[s] {
			t.Errorf("during %+v", rec.During)
		}
	}
}

// TestChangesAreAwaited: a fault is over when each server acknowledges changes, also if they were ready before.
func TestChangesAreAwaited(t *testing.T) {
	e, f := newEnv(t)
	f.refuses = 2
	kill, err := Named(history.Kill)
	if err != nil {
		t.Fatal(err)
	}
	rec := e.Run(t.Context(), kill, false)
	if rec.Error != "" || rec.Unhealed || f.refuses != 0 || !slices.Equal(f.took, f.Servers()) {
		t.Errorf("recorded %+v; %d more would be refused, and %v have acknowledged one", rec, f.refuses, f.took)
	}
	if rec.End < rec.Heal+2*pollEvery {
		t.Errorf("it ended at %v, after the last refusal and before %v", rec.End, rec.Heal+2*pollEvery)
	}
}

// TestChangesThatStayRefused are no fault that could not be done: they are told as what did not heal.
func TestChangesThatStayRefused(t *testing.T) {
	e, f := newEnv(t)
	f.refuses, e.Heal = math.MaxInt, 6*pollEvery
	kill, err := Named(history.Kill)
	if err != nil {
		t.Fatal(err)
	}
	const want = "server s1 acknowledged no change within 300ms: context deadline exceeded; the last answer was: LIMIT"
	if rec := e.Run(t.Context(), kill, false); !rec.Unhealed || !strings.HasPrefix(rec.Error, want) {
		t.Errorf("unhealed %v: %s, want %s", rec.Unhealed, rec.Error, want)
	}
	over, cancel := context.WithCancel(t.Context())
	kill.do = func(context.Context, *strike) error { cancel(); return nil }
	if rec := e.Run(over, kill, false); rec.Unhealed || rec.Error == "" {
		t.Errorf("after an interrupt: unhealed %v: %s", rec.Unhealed, rec.Error)
	}
}

// TestTogether: no machine is struck twice at once, and a fault that finds none left says so.
func TestTogether(t *testing.T) {
	e, _ := newEnv(t)
	kill, err := Named(history.Kill)
	if err != nil {
		t.Fatal(err)
	}
	e.struck = map[string]bool{"s1": true, "s3": true}
	if rec := e.Run(t.Context(), kill, true); rec.Error != "" || !slices.Equal(rec.Servers, []string{"s2"}) || e.struck["s2"] {
		t.Errorf("recorded %+v", rec)
	}
	e.struck["s2"] = true
	if rec := e.Run(t.Context(), kill, true); !strings.Contains(rec.Error, "struck by another") {
		t.Errorf("recorded %+v", rec)
	}
}

func TestPlan(t *testing.T) {
	_, f := newEnv(t)
	every, err := Plan(Every, f, 7)
	if err != nil || every.Len() != len(asked) {
		t.Fatalf("%v, %v", every, err)
	}
	seen := map[string]bool{}
	for range every.Len() {
		seen[every.Next()[0].Name] = true
	}
	if len(seen) != len(asked) {
		t.Errorf("a round of all is %v", seen)
	}
	mix, err := Plan(Mix, f, 7)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if n := len(mix.Next()); n < 2 || n > 3 {
			t.Errorf("%d at once", n)
		}
	}
	again, err := Plan(Every, f, 7)
	if err != nil || again.String() != every.String() {
		t.Errorf("the same seed gives %v, and %v", again, every)
	}
	for _, name := range []string{"meteorite", history.KillOwner} {
		if _, err := Plan(name, f, 7); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A slow leader keeps one server to be slow with.
func TestMixOfSlowLeader(t *testing.T) {
	_, r := newRich(t)
	mix, err := Plan(Mix, r, 7)
	if err != nil {
		t.Fatal(err)
	}
	met := 0
	for range 500 {
		round := mix.Next()
		if !slices.ContainsFunc(round, func(f Fault) bool { return f.Name == history.SlowLeader }) {
			continue
		}
		if met++; len(round) != 2 {
			t.Errorf("%d faults at once, a slow leader among them", len(round))
		}
	}
	if met < 20 {
		t.Errorf("a slow leader in %d of 500 rounds", met)
	}
}

// TestFaultThatCannotBeDone records why.
func TestFaultThatCannotBeDone(t *testing.T) {
	for fail, kind := range map[string]string{"kill": history.Kill, "resume": history.Pause, "start": history.Readdress} {
		e, f := newEnv(t)
		f.fail = fail
		at := slices.IndexFunc(All(), func(k Fault) bool { return k.Name == kind })
		if rec := e.Run(t.Context(), All()[at], false); rec.Error != fail+" does not work" {
			t.Errorf("%s: recorded %+v", kind, rec)
		}
	}
}

func TestCompareAddresses(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"10.0.0.9", "10.0.0.10", -1}, {"10.0.0.10", "10.0.0.9", 1}, {"10.0.0.9", "10.0.0.9", 0}, {"", "10.0.0.9", -1}} {
		if got := compareAddresses(c.a, c.b); got != c.want {
			t.Errorf("%s and %s: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
