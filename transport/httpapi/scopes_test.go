package httpapi

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/view"
)

func TestRouteReplies(t *testing.T) {
	b := newBench(t)
	b.moving()
	b.ok(200, nil, "PUT", "/v1/scope?prefix=jobs:", `{"writer":"c"}`)
	for _, c := range []struct{ query, verdict, reply string }{
		{"key=jobs:1&as=c", "OWNED", "OK"},
		{"key=jobs:1&as=a", "MISDIRECTED", "MISDIRECTED writer is 10.0.0.3:6004"},
		{"key=app:1&as=a", "QUIESCED", "QUIESCED migrating to 10.0.0.2:6004"},
		{"key=app:1&as=b", "QUIESCED", "QUIESCED migrating to 10.0.0.2:6004"},
		{"key=other&as=a", "UNKNOWN", "UNKNOWN"},
		{"key=&as=a", "UNKNOWN", "UNKNOWN"},
		{"key=jobs:1", "", ""},
	} {
		var r api.Route
		h := b.ok(200, &r, "GET", "/v1/route?"+c.query, "")
		if r.Verdict != c.verdict || r.Reply != c.reply {
			t.Errorf("%s: %q %q, want %q %q", c.query, r.Verdict, r.Reply, c.verdict, c.reply)
		}
		if h.Get(api.HeaderLeader) != "s1" || h.Get(api.HeaderLastContact) != "7" || h.Get(api.HeaderIndex) != fmt.Sprint(r.Index) {
			t.Errorf("%s: headers %v", c.query, h)
		}
	}
	var r api.Route
	b.ok(200, &r, "GET", "/v1/route?key=app:1", "")
	if r.Prefix != "app:" || r.Owner != "a" || r.Target != "b" || r.State != view.Quiesced || r.Addr != "10.0.0.2:6004" || r.Epoch == 0 {
		t.Errorf("%+v", r)
	}
}

func TestReadLevels(t *testing.T) {
	b := newBench(t)
	b.moving()
	for _, path := range []string{"route?key=x", "explain?key=x", "scopes?limit=1", "scope?prefix=app:", "nodes?", "nodes/a?", "moves?limit=1", "moves/m1?"} {
		b.reg.Asks = nil
		b.ok(200, nil, "GET", "/v1/"+path+"&consistency=linearizable&min_index=4&max_stale=500ms", "")
		b.ok(200, nil, "GET", "/v1/"+path+"&max_stale=250", "")
		if got := fmt.Sprint(b.reg.Asks); got != "[{linearizable 4 500ms} { 0 250ms}]" {
			t.Errorf("%s: reads were %s", path, got)
		}
	}
	contains(t, b.refused(api.Invalid, "GET", "/v1/route?key=x&consistency=weak", "").Detail, "query.consistency", "weak")
	contains(t, b.refused(api.Invalid, "GET", "/v1/route?key=x&min_index=abc", "").Detail, "query.min_index", "abc")
	contains(t, b.refused(api.Invalid, "GET", "/v1/route?key=x&max_stale=-1s", "").Detail, "max_stale", "-1s")
	b.reg.Down = &api.Error{Code: api.Stale, Detail: "too old"}
	b.refused(api.Stale, "GET", "/v1/route?key=x", "")
}

// A read with min_index waits for it and answers from there, or gives up.
func TestMinIndexIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.declared() // indexes 1 to 4
		defer time.AfterFunc(time.Second, func() { b.propose(&fsm.SetNode{Id: "d", Addr: "h:1"}) }).Stop()
		start := time.Now()
		var n api.Node
		h := b.ok(200, &n, "GET", "/v1/nodes/d?min_index=5", "")
		if n.ID != "d" || h.Get(api.HeaderIndex) != "5" || time.Since(start) != time.Second {
			t.Errorf("%+v at index %s after %v", n, h.Get(api.HeaderIndex), time.Since(start))
		}
		start = time.Now()
		b.refused(api.Timeout, "GET", "/v1/nodes/d?min_index=6", "")
		if took := time.Since(start); took != requestTimeout {
			t.Errorf("gave up after %v", took)
		}
		// The client hears it before it gives up itself; one with more patience hears it at the server's own limit.
		for patience, want := range map[string]time.Duration{"1000": 900 * time.Millisecond, "60000": requestTimeout} {
			start = time.Now()
			b.refused(api.Timeout, "GET", "/v1/nodes/d?min_index=6", "", api.HeaderPatience, patience)
			if took := time.Since(start); took != want {
				t.Errorf("with a patience of %s ms gave up after %v, want %v", patience, took, want)
			}
		}
		b.refused(api.Invalid, "GET", "/v1/nodes/d", "", api.HeaderPatience, "-1")
	})
}

func TestRouteRefusals(t *testing.T) {
	b := newBench(t)
	contains(t, b.refused(api.Invalid, "GET", "/v1/route", "").Detail, "key")
	contains(t, b.refused(api.Invalid, "GET", `/v1/route?key=%5Cq`, "").Detail, "key", `\`)
	contains(t, b.refused(api.Invalid, "GET", "/v1/route?key=x&as=-bad", "").Detail, "as", "-bad")
	contains(t, b.refused(api.Invalid, "GET", "/v1/route?key="+strings.Repeat("k", 64<<10+1), "").Detail, "65537", "65536")
	contains(t, b.refused(api.Invalid, "GET", "/v1/route?key=x&node=a", "").Detail, "query.node")
	b.refused(api.Invalid, "GET", "/v1/explain", "")
}

func TestTextForm(t *testing.T) {
	b := newBench(t)
	b.nodes()
	for _, text := range []string{`\x00`, `\\`, `\xff\xfe:`, "é:"} {
		b.ok(200, nil, "PUT", "/v1/scope?prefix="+url.QueryEscape(text), `{"writer":"a"}`)
		var s api.Scope
		b.ok(200, &s, "GET", "/v1/scope?prefix="+url.QueryEscape(text), "")
		if s.Prefix != text {
			t.Errorf("prefix %q came back as %q", text, s.Prefix)
		}
	}
	if got := string(b.reg.Asked[3].Command.(*fsm.Declare).Prefix); got != "\x00" {
		t.Errorf("declared %q", got)
	}
	var r api.Route
	b.ok(200, &r, "GET", "/v1/route?as=a&key="+url.QueryEscape(`\x00\\`), "")
	if r.Verdict != "OWNED" || r.Prefix != `\x00` || r.Key != `\x00\\` {
		t.Errorf("%+v", r)
	}
	contains(t, b.refused(api.Invalid, "PUT", `/v1/scope?prefix=%5Cx0`, `{"writer":"a"}`).Detail, "prefix", `\x0`)
}

func TestEmptyPrefixMustBeSaid(t *testing.T) {
	b := newBench(t)
	b.nodes()
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		body := ""
		if method == "PUT" {
			body = `{"writer":"a"}`
		}
		contains(t, b.refused(api.Invalid, method, "/v1/scope", body).Detail, "prefix")
	}
	b.ok(200, nil, "PUT", "/v1/scope?prefix=", `{"writer":"a"}`)
	b.ok(200, nil, "GET", "/v1/scope?prefix=", "")
}

func TestScopeLife(t *testing.T) {
	b := newBench(t)
	b.declared()
	var s api.Scope
	b.ok(200, &s, "GET", "/v1/scope?prefix=app:", "")
	if s.Writer != "a" || s.Owner != "a" || s.OwnerAddr != "10.0.0.1:6004" || s.State != view.Owned || s.Failover != "auto" || s.Lease != "auto" {
		t.Errorf("%+v", s)
	}
	if p := b.refused(api.Exists, "PUT", "/v1/scope?prefix=app:", `{"writer":"b"}`); p.Owner == "" && p.ConflictsWith == "" {
		t.Errorf("%+v", p)
	}
	if p := b.refused(api.Overlap, "PUT", "/v1/scope?prefix=app:x", `{"writer":"b"}`); p.ConflictsWith != "app:" {
		t.Errorf("%+v", p)
	}
	b.refused(api.NodeUnknown, "PUT", "/v1/scope?prefix=z:", `{"writer":"nobody"}`)
	wrong, right := fmt.Sprint(s.Epoch+1), fmt.Sprintf("%q", fmt.Sprint(s.Epoch))
	if p := b.refused(api.StaleEpoch, "PUT", "/v1/scope?prefix=app:", `{"writer":"a","fallback":"b"}`, "If-Match", wrong); p.Epoch != s.Epoch {
		t.Errorf("%+v", p)
	}
	b.ok(200, nil, "PUT", "/v1/scope?prefix=app:", `{"writer":"a","fallback":"b"}`, "If-Match", right)
	b.refused(api.StaleEpoch, "DELETE", "/v1/scope?prefix=app:", "", "If-Match", wrong)
	contains(t, b.refused(api.Invalid, "DELETE", "/v1/scope?prefix=app:", "", "If-Match", "*").Detail, "If-Match", "*")
	b.ok(200, nil, "DELETE", "/v1/scope?prefix=app:&source_fenced=a", "", "If-Match", right)
	if c := b.reg.Last().Command.(*fsm.Retire); c.SourceFenced != "a" || c.ExpectedEpoch != s.Epoch {
		t.Errorf("%v", c)
	}
	b.refused(api.NotFound, "GET", "/v1/scope?prefix=app:", "")
	b.refused(api.NotFound, "DELETE", "/v1/scope?prefix=app:", "")
}

func TestDeclareRefusals(t *testing.T) {
	b := newBench(t)
	b.nodes()
	for body, part := range map[string]string{
		`{"writer":""}`:                           "writer",
		`{}`:                                      "writer",
		`{"writer":5}`:                            "body.writer",
		`{"writer":"a","writter":"b"}`:            "writter",
		`{"writer":"a","failover":"perhaps"}`:     "perhaps",
		`{"writer":"a","lease":"perhaps"}`:        "perhaps",
		`{"writer":"a","fallback":"b b"}`:         "b b",
		`{"writer":"a","prefix":"else:"}`:         "else:",
		`{"writer":"a","source_fenced":"/etc/x"}`: "/etc/x",
		`{"writer":`:                              "body",
	} {
		contains(t, b.refused(api.Invalid, "PUT", "/v1/scope?prefix=app:", body).Detail, part)
	}
	if len(b.reg.Asked) != 3 {
		t.Errorf("%d commands were proposed, want only the 3 nodes", len(b.reg.Asked))
	}
}

func TestListScopes(t *testing.T) {
	b := newBench(t)
	b.nodes()
	for _, p := range []string{"a:1", "a:2", "a:3", "b:1"} {
		b.ok(200, nil, "PUT", "/v1/scope?prefix="+p, fmt.Sprintf(`{"writer":%q,"fallback":%q}`, p[:1], map[bool]string{true: "c"}[p == "a:2"]))
	}
	for query, want := range map[string]string{
		"":                        "a:1 a:2 a:3 b:1",
		"under=a:":                "a:1 a:2 a:3",
		"under=a:&limit=2":        "a:1 a:2 next a:2",
		"under=a:&after=a:2":      "a:3",
		"limit=4":                 "a:1 a:2 a:3 b:1",
		"no_fallback=true":        "a:1 a:3 b:1",
		"node=c":                  "a:2",
		"node=b&no_fallback=true": "b:1",
	} {
		var out struct {
			Index  uint64
			Scopes []api.Scope
			Next   string
		}
		b.ok(200, &out, "GET", "/v1/scopes?"+query, "")
		var got []string
		for _, s := range out.Scopes {
			got = append(got, s.Prefix)
		}
		if out.Next != "" {
			got = append(got, "next", out.Next)
		}
		if strings.Join(got, " ") != want || out.Index != b.reg.Index {
			t.Errorf("%s: %v, want %s", query, got, want)
		}
	}
	contains(t, b.refused(api.Invalid, "GET", "/v1/scopes?limit=10001", "").Detail, "10001", "10000")
	b.refused(api.Invalid, "GET", "/v1/scopes?limit=-1", "")
	b.refused(api.Invalid, "GET", "/v1/scopes?node=!", "")
}

func TestListsOfNothing(t *testing.T) {
	for _, kind := range []string{"scopes", "nodes", "moves"} {
		contains(t, newBench(t).do("GET", "/v1/"+kind, "").Body.String(), `"`+kind+`":[]`)
	}
}

func TestExplain(t *testing.T) {
	b := newBench(t)
	b.moving()
	b.reg.Reached = b.reg.Index - 1
	var e api.Explain
	b.ok(200, &e, "GET", "/v1/explain?key=app:1&as=a", "")
	if e.Scope == nil || e.Scope.Move != "m1" || e.Move == nil || e.Move.ID != "m1" || e.Verdict != "QUIESCED" || fmt.Sprint(e.Lagging) != "[s2 s3]" {
		t.Errorf("%+v", e)
	}
	contains(t, e.Why, "m1", "from a to b")
	b.reg.Reached = b.reg.Index
	b.ok(200, &e, "GET", "/v1/explain?key=app:1&as=a", "")
	if fmt.Sprint(e.Lagging) != "[s3]" {
		t.Errorf("lagging %v", e.Lagging)
	}
	e = api.Explain{}
	b.ok(200, &e, "GET", "/v1/explain?key=none", "")
	if e.Scope != nil || e.Why == "" {
		t.Errorf("%+v", e)
	}
}

func TestApply(t *testing.T) {
	b := newBench(t)
	batch := `{"nodes":[{"id":"a","addr":"h:1"}],"scopes":[{"prefix":"x:","writer":"a"}]%s}`
	var out api.Applying
	b.ok(200, &out, "POST", "/v1/apply", fmt.Sprintf(batch, `,"dry_run":true`))
	if out.Plan == nil || len(out.Plan.Changes) != 2 || out.Applied != nil || len(b.reg.Asked) != 0 || b.reg.Asks[0].Consistency != "linearizable" {
		t.Fatalf("%+v", out)
	}
	out = api.Applying{}
	b.ok(200, &out, "POST", "/v1/apply", fmt.Sprintf(batch, fmt.Sprintf(`,"if_index":%d`, b.reg.Index)))
	if out.Plan != nil || out.Applied == nil || out.Changed != 2 {
		t.Fatalf("%+v", out)
	}
	b.refused(api.IndexChanged, "POST", "/v1/apply", fmt.Sprintf(batch, `,"if_index":0`))
	b.refused(api.NodeUnknown, "POST", "/v1/apply", `{"scopes":[{"prefix":"y:","writer":"b"}]}`)
	b.refused(api.NodeUnknown, "POST", "/v1/apply", `{"scopes":[{"prefix":"y:","writer":"b"}],"dry_run":true}`)
	contains(t, b.refused(api.Invalid, "POST", "/v1/apply", `{"scopes":[{"prefix":"y:","writer":"a"},{"prefix":"\\","writer":"a"}]}`).Detail, "scopes[1].prefix")
	contains(t, b.refused(api.Invalid, "POST", "/v1/apply", `{"nodes":[{"id":"?","addr":"h:1"}]}`).Detail, "nodes[0].id", "?")
}

// if_index is compared with the last change of nodes or scopes: the phases of a
// move leave a plan valid, its flip does not.
func TestIfIndex(t *testing.T) {
	b := newBench(t)
	b.declared()
	plan := func() uint64 {
		var out api.Applying
		b.ok(200, &out, "POST", "/v1/apply", `{"nodes":[{"id":"d","addr":"h:1"}],"dry_run":true}`)
		return out.Plan.Index
	}
	apply := func(addr string, index uint64) string {
		return fmt.Sprintf(`{"nodes":[{"id":"d","addr":%q}],"if_index":%d}`, addr, index)
	}
	planned := plan()
	b.ok(202, nil, "POST", "/v1/moves", `{"id":"m1","prefix":"app:","from":"a","to":"b","mode":"assisted"}`)
	b.ok(200, nil, "POST", "/v1/moves/m1/shipped", "")
	b.ok(200, nil, "POST", "/v1/apply", apply("h:1", planned))
	planned = plan()
	b.ok(200, nil, "POST", "/v1/moves/m1/ready", "")
	p := b.refused(api.IndexChanged, "POST", "/v1/apply", apply("h:2", planned))
	if p.Index != b.reg.State().ConfigIndex() || p.Index <= planned || p.Floor != p.Index {
		t.Errorf("%+v after a plan at %d, want the index %d of the flip", p, planned, b.reg.State().ConfigIndex())
	}
	b.ok(200, nil, "POST", "/v1/moves/m1/cleaned", `{"reason":"off"}`)
	b.ok(200, nil, "POST", "/v1/apply", apply("h:2", p.Index))
}

func TestApplyLimits(t *testing.T) {
	b := newBench(t)
	many := `{"nodes":[` + strings.Repeat(`{"id":"a","addr":"h:1"},`, MaxItems) + `{"id":"a","addr":"h:1"}]}`
	contains(t, b.refused(api.Limit, "POST", "/v1/apply", many).Detail, "10001", "10000")
	large := `{"nodes":[{"id":"a","addr":"` + strings.Repeat("h", MaxBody) + `"}]}`
	contains(t, b.refused(api.TooLarge, "POST", "/v1/apply", large).Detail, fmt.Sprint(MaxBody))
	if len(b.reg.Asked) != 0 {
		t.Error("something was proposed")
	}
}
