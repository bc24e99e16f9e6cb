package main

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

// withSession is the node a with a live session.
func withSession() api.NodeState {
	return api.NodeState{Node: api.Node{ID: "a", Addr: "h:1"}, Session: &api.Session{ID: "s1", Opened: 7, View: 5}, Identity: "d"}
}

func TestSessionState(t *testing.T) {
	left := int64(8900)
	all := api.Sessions{Sessions: []api.SessionState{{Node: "x", Session: api.Session{ID: "s0"}},
		{Node: "a", Session: api.Session{ID: "s1", View: 9}, LeftMS: &left}}}
	for want, n := range map[string]api.NodeState{
		nodeLive: withSession(), nodeNone: {Node: api.Node{ID: "a"}, Identity: "d"}, nodeExpired: {Expired: true}, nodeFenced: {Expired: true, Fenced: true},
	} {
		if got := sessionState(n, nil); got != want {
			t.Errorf("%+v is %s, want %s", n, got, want)
		}
	}
	s := sessionOf(withSession(), all)
	if s != &all.Sessions[1] || lease(s) != "8.9s" || lease(nil) != "" || sessionOf(api.NodeState{}, all) != nil {
		t.Errorf("%+v, lease %q", s, lease(s))
	}
	s.Blind, left = true, -3
	if got := sessionState(withSession(), s) + " " + lease(s); got != "blind 0s" {
		t.Errorf("%s", got)
	}
	var out bytes.Buffer
	c := &cli{out: &out, err: &out, format: "table"}
	if err := c.nodeFacts(withSession(), s); err != nil || !strings.Contains(out.String(), "view index    9\n") || !strings.Contains(out.String(), "session       blind\n") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func TestChangeText(t *testing.T) {
	node := withSession()
	expired := api.NodeState{Node: node.Node, Expired: true}
	for want, ch := range map[string]api.Change{
		"node a at h:1, session s1 opened at index 7, view at 5":           {Op: "put", Node: &node},
		"node a at h:1, expired":                                           {Op: "put", Node: &expired},
		"node a removed":                                                   {Op: "delete", Node: &expired},
		"cluster c1 incarnation 2":                                         {Op: "put", Cluster: &api.ClusterRecord{ID: "c1", Incarnation: 2, Tag: "tag"}},
		"cluster c1 incarnation 2, on hold":                                {Op: "put", Cluster: &api.ClusterRecord{ID: "c1", Incarnation: 2, Tag: "tag", Hold: true}},
		"move m1 of p: from a to b: aborted (session) the session expired": {Op: "put", Move: &api.Move{ID: "m1", Prefix: "p:", From: "a", To: "b", Phase: "aborted", Cause: "session", Detail: "the session expired"}},
	} {
		if got := changeText(ch); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
}

func TestExplainNamesWhoHasNotSeenIt(t *testing.T) {
	var out bytes.Buffer
	c := &cli{out: &out, format: "table"}
	no := false
	if err := c.explain(api.Explain{Scope: &api.Scope{Settled: &no}, Unseen: []string{"a", "b"}}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"settled  no\n", "unseen   a, b may still act as before the last change\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%s", want, out.String())
		}
	}
	out.Reset()
	if err := c.explain(api.Explain{Scope: &api.Scope{}}); err != nil || strings.Contains(out.String(), "settled") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func TestShipped(t *testing.T) {
	for want, p := range map[string]api.Progress{
		"10 keys, 1.0 MiB shipped; 20 keys, 2.0 MiB left; 512.0 KiB/s; about 4s to go": {Keys: 10, Bytes: 1 << 20, KeysLeft: 20, BytesLeft: 2 << 20, BytesPerSec: 512 << 10, LeftMS: 4100},
		"1 keys, 1023 B shipped; 0 keys, 1.5 KiB left":                                 {Keys: 1, Bytes: 1023, BytesLeft: 1536, LeftMS: -1},
		"0 keys, 0 B shipped; 0 keys, 16.0 EiB left":                                   {BytesLeft: 1<<64 - 1, LeftMS: -1},
	} {
		if got := shipped(p); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
}

// Off a terminal progress is told in lines, but not more often than every five
// seconds, and not again when nothing has moved.
func TestTrackerTellsProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		c := &cli{err: &out, width: func() int { return 0 }}
		tr := c.track()
		defer tr.end()
		saw := func(keys uint64, after time.Duration) string {
			<-time.After(after)
			out.Reset()
			m, _ := look("copying", 1)
			if keys > 0 {
				m.Progress = &api.Progress{Keys: keys, LeftMS: -1}
			}
			tr.saw(m)
			return out.String()
		}
		for _, c := range []struct {
			keys  uint64
			after time.Duration
			want  string
		}{
			{0, 0, "waiting for the operator"}, {1, time.Second, "1 keys, 0 B shipped"}, {2, time.Second, ""}, {3, 4 * time.Second, "3 keys"},
			{3, tellEvery, ""}, {0, time.Second, ""}, {4, 0, "4 keys"}, {5, tellEvery - 1, ""}, {6, 1, "6 keys"},
		} {
			got := saw(c.keys, c.after)
			if c.want == "" && got != "" || !strings.Contains(got, c.want) || strings.Count(got, "\n") > 1 {
				t.Errorf("%d keys after %v: %q, want %q", c.keys, c.after, got, c.want)
			}
		}
		if got := tr.text(time.Now()); !strings.Contains(got, "6 keys") {
			t.Errorf("the live line says %q", got)
		}
		m, _ := look("shipped", 3)
		m.Progress = &api.Progress{Keys: 6}
		if got := progress(m, "", time.Now()); !strings.Contains(got, "waiting for the operator") {
			t.Errorf("after the source is done: %q", got)
		}
	})
}

// On a terminal the one line follows every look.
func TestLiveProgress(t *testing.T) {
	c := &cli{err: &bytes.Buffer{}, width: func() int { return 0 }}
	tr := &tracker{c: c, live: true}
	for keys := range uint64(3) {
		m, now := look("copying", 1)
		m.Progress = &api.Progress{Keys: keys, LeftMS: 3000}
		tr.saw(m)
		if got := tr.text(now); !strings.Contains(got, "m1 copying for 3s, 9m57s left: ") || !strings.HasSuffix(got, " to go") || !strings.Contains(got, num(keys)+" keys, 0 B shipped") {
			t.Errorf("%q", got)
		}
	}
}
