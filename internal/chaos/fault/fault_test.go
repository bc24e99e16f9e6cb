package fault

import (
	"context"
	"errors"
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

// answer is what a server answers to every question.
func (f *fake) answer(s string, w http.ResponseWriter) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.machines[s].State != "running" {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set(api.HeaderIndex, "1")
	if f.machines[s].Peer == "" {
		return
	}
	for _, id := range f.Servers() {
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
		Say: func(string, ...any) {}, Hold: 10 * time.Millisecond}
	for i, s := range f.Servers() {
		f.machines[s] = history.Machine{State: "running", PID: i + 1, Peer: []string{"10.0.0.9", "10.0.0.10", "10.0.0.11"}[i]}
		ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { f.answer(s, w) }))
		t.Cleanup(ts.Close)
		f.urls[s] = ts.URL
		e.Servers[s] = direct.New(s, ts.URL)
		t.Cleanup(e.Servers[s].Close)
	}
	return e, f
}

func TestFaults(t *testing.T) {
	want := map[string]string{history.Kill: "kill s1, start s1", history.Pause: "pause s1, resume s1", history.Partition: "cut s1, mend s1",
		history.Readdress: "stop s1, stop s2, start s2, start s1"} // the one with the higher address first
	for _, kind := range All() {
		t.Run(kind.Name, func(t *testing.T) {
			e, f := newEnv(t)
			rec := e.Run(t.Context(), kind, false)
			if rec.Error != "" || rec.Name != kind.Name || rec.Leader != "s1" || !slices.Contains(rec.Servers, "s1") {
				t.Fatalf("recorded %+v", rec)
			}
			if got := strings.Join(f.asked, ", "); got != want[kind.Name] {
				t.Errorf("did %s, want %s", got, want[kind.Name])
			}
			if rec.Active < rec.Begin || rec.Heal-rec.Active < e.Hold || rec.End < rec.Heal {
				t.Errorf("times %v, %v, %v, %v", rec.Begin, rec.Active, rec.Heal, rec.End)
			}
			if kind.Name == history.Readdress {
				for _, s := range []string{"s1", "s2"} {
					if rec.After[s].Peer == rec.Before[s].Peer {
						t.Errorf("%s is still at %s", s, rec.After[s].Peer)
					}
				}
				return
			}
			if rec.Elected != "s2" || rec.ElectedAt < rec.Active || rec.ElectedAt > rec.Heal {
				t.Errorf("elected %q at %v", rec.Elected, rec.ElectedAt)
			}
			if rec.Silent != (kind.Name != history.Partition) || rec.During["s1"] == rec.Before["s1"] {
				t.Errorf("silent %v, during %+v", rec.Silent, rec.During)
			}
		})
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
