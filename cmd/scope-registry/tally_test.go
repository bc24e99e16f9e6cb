package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"sort"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/apitest"
)

// tallied is what a tally has counted, but for what is still 0.
func tallied(t *testing.T, c prometheus.Collector) string {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range families {
		name := strings.TrimPrefix(f.GetName(), "scope_registry_")
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			if h := m.GetHistogram(); h.GetSampleCount() > 0 {
				out = append(out, fmt.Sprintf("%s %d in %vs", name, h.GetSampleCount(), h.GetSampleSum()))
			} else if n := m.GetCounter().GetValue(); n > 0 {
				out = append(out, fmt.Sprintf("%s %v", strings.Join(strings.Fields(name), " "), n))
			}
			name = strings.TrimPrefix(f.GetName(), "scope_registry_")
		}
	}
	sort.Strings(out)
	return strings.Join(out, "; ")
}

// committed applies commands; those of fsm.OpenSession get what every node has.
func committed(t *testing.T, reg *apitest.Memory, cmds ...fsm.Command) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, cmd := range cmds {
		if o, ok := cmd.(*fsm.OpenSession); ok {
			o.Identity, o.Session, o.TokenHash = "disk-"+o.Node, "s-"+o.Node, make([]byte, fsm.TokenHashLen)
			o.Incarnation, o.IncarnationTag, o.View = reg.State().Cluster().Incarnation, reg.State().Cluster().Tag, reg.State().Index()
		}
		if _, err := reg.Propose(ctx, fsm.Envelope{Command: cmd}); err != nil {
			t.Fatalf("%T: %v", cmd, err)
		}
	}
}

// late is a registry that has caught up when a test says so.
type late struct {
	*apitest.Memory
	ready atomic.Bool
}

// Ready is UNAVAILABLE until it has caught up.
func (l *late) Ready() error {
	if l.ready.Load() {
		return nil
	}
	return &api.Error{Code: api.Unavailable, Detail: "it catches up"}
}

func TestTally(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := apitest.New(t)
		behind := &late{Memory: reg}
		tl := newTally(behind)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			tl.run(ctx)
		}()
		committed(t, reg, &fsm.InitCluster{Id: "c1"}, &fsm.SetNode{Id: "a", Addr: "h:1"}, &fsm.SetNode{Id: "b", Addr: "h:2"},
			&fsm.Declare{Prefix: []byte("p:"), Writer: "a", Fallback: "b"}, &fsm.OpenSession{Node: "a"}) // before it has caught up
		synctest.Wait()
		behind.ready.Store(true)
		<-tl.counting
		committed(t, reg, &fsm.OpenSession{Node: "b"}, &fsm.Declare{Prefix: []byte("m:"), Writer: "b"},
			&fsm.StartMove{Id: "m1", Prefix: []byte("m:"), From: "b", To: "a"}, &fsm.Shipped{Move: "m1", Session: "s-b"}, &fsm.Ready{Move: "m1", Session: "s-a"},
			&fsm.StartMove{Id: "m2", Prefix: []byte("p:"), From: "a", To: "b", Precopy: true}, &fsm.Abort{Move: "m2"},
			&fsm.StartMove{Id: "m3", Prefix: []byte("p:"), From: "a", To: "b"}, &fsm.Expire{Session: "s-a", Term: 1})
		synctest.Wait()
		const counted = "moves_ended_total operator aborted 1; moves_ended_total session aborted 1; session_expiries_total 1; session_opens_total 1; takeovers_total 1"
		if got, want := tallied(t, tl), "move_quiesced_seconds 2 in 0s; moves_ended_total done 1; "+counted; got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
		sc, _ := reg.State().Scopes().Get("m:")
		committed(t, reg, &fsm.CloseSession{Session: "s-b"}, &fsm.Force{Id: "f1", Prefix: []byte("m:"), To: "b", ExpectedEpoch: sc.Epoch, AcceptLoss: true,
			SourceFenced: "a", SourceFencedIdentity: "disk-a"})
		synctest.Wait()
		reg.Restart(t)
		synctest.Wait()
		<-time.After(readyEvery)
		synctest.Wait()
		committed(t, reg, &fsm.OpenSession{Node: "b"})
		synctest.Wait()
		if got := tallied(t, tl); !strings.Contains(got, "moves_ended_total forced 1") || !strings.Contains(got, "event_gaps_total 1") ||
			!strings.Contains(got, "session_opens_total 2") || !strings.Contains(got, "quiesced_seconds 2 in") {
			t.Errorf("%s", got)
		}
		cancel()
		<-done
	})
}

// A server shows all series from its start on, so that their first increase is
// seen as one.
func TestTallyOfAServer(t *testing.T) {
	at := endpoint(t)
	resp, err := http.Get(at + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, series := range []string{"scope_registry_sessions 0", "scope_registry_session_opens_total 0", "scope_registry_takeovers_total 0",
		`scope_registry_moves_ended_total{cause="session",outcome="aborted"} 0`, "scope_registry_move_quiesced_seconds_count 0", "scope_registry_event_gaps_total 0"} {
		if !strings.Contains(string(data), "\n"+series+"\n") {
			t.Errorf("there is no %s", series)
		}
	}
	problems, err := promlint.New(bytes.NewReader(ours(data))).Lint() // what promtool check metrics says
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %+v", err, problems)
	}
}

// ours are the lines of our own series: the names of raft's and boltdb's are theirs.
func ours(metrics []byte) []byte {
	var out bytes.Buffer
	for line := range bytes.Lines(metrics) {
		name := bytes.TrimPrefix(bytes.TrimPrefix(line, []byte("# HELP ")), []byte("# TYPE "))
		if bytes.HasPrefix(name, []byte("scope_registry_")) && !bytes.HasPrefix(name, []byte("scope_registry_raft_")) {
			out.Write(line)
		}
	}
	return out.Bytes()
}
