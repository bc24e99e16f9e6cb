package httpapi

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/certs/certstest"
	"github.com/scope-registry/scope-registry/scope"
)

// asker is somebody that asks, with what it shows.
type asker struct {
	name   string
	who    access.Who
	header []string
	tls    *tls.ConnectionState
	token  *fsm.CreateToken // that it shows, or what says that there is one
	before func(cfg *Config)
}

// ask does one request of an exchange.
func (b *bench) ask(a asker, e exchange) *httptest.ResponseRecorder {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), streamed)
	defer cancel()
	req := httptest.NewRequestWithContext(ctx, e.method, e.target, strings.NewReader(e.body))
	if e.body == "" {
		req.Body, req.ContentLength = http.NoBody, 0
	}
	for i := 0; i+1 < len(a.header); i += 2 {
		req.Header.Add(a.header[i], a.header[i+1])
	}
	req.TLS = a.tls
	rec := httptest.NewRecorder()
	b.h.ServeHTTP(rec, req)
	return rec
}

// owners are the nodes whose own the good exchanges of some operations are, over populated.
var owners = map[access.Action]string{access.OpenSession: "w", access.RenewSession: "x", access.CloseSession: "x", access.ReportMove: "x", access.SetNode: "e",
	access.ShippedMove: "a", access.ReadyMove: "b", access.AbortMove: "a", access.CleanedMove: "a"}

// notHTTP are the actions that are no operation of their own.
var notHTTP = []access.Action{access.OpenAPI, access.Connect, access.GiveWord, access.SourceFenced}

// askers is everybody there is, for an operation: each role by token and by certificate, and those who show nothing.
func askers(a *certstest.Authority, node string) []asker {
	by := func(name string, c *fsm.CreateToken) asker {
		role, _ := access.ParseRole(c.Role)
		return asker{name: name, token: c, header: bearing(name), who: access.Who{Role: role, ID: c.Node, Token: name, Prefix: scope.Prefix(c.Prefix)}}
	}
	cert := func(who access.Who) asker {
		return asker{name: "certificate of " + who.String(), who: who, tls: a.Shown(who, "test", time.Time{}), token: &fsm.CreateToken{Role: "admin"}}
	}
	required := func(cfg *Config) { cfg.CertsRequired = true }
	return []asker{
		{name: "anonymous", who: access.Who{Role: access.Anonymous}},
		{name: "nobody", token: &fsm.CreateToken{Role: "admin"}},
		{name: "nobody without certificate", before: required},
		by("viewer", &fsm.CreateToken{Role: "viewer"}),
		by("operator", &fsm.CreateToken{Role: "operator"}),
		by("operator-of-nothing", &fsm.CreateToken{Role: "operator", Prefix: []byte("nothing:")}),
		by("admin", &fsm.CreateToken{Role: "admin"}),
		by("own", &fsm.CreateToken{Role: "node", Node: node}),
		by("other", &fsm.CreateToken{Role: "node", Node: "c"}),
		cert(access.Who{Role: access.Viewer, ID: "v"}), cert(access.Who{Role: access.Operator}), cert(access.Who{Role: access.Admin, ID: "root"}),
		cert(access.Who{Role: access.Node, ID: node}), cert(access.Who{Role: access.Node, ID: "c"}), cert(access.Who{Role: access.Server, ID: "s2"}),
	}
}

// expected is the refusal that the table of access has for an operation, "" if there is none.
func expected(a asker, op access.Action, method string) api.Code {
	reach := a.who.Role.Reach(op)
	switch {
	case reach == access.Never && a.who.Role == access.Nobody:
		return api.Unauthenticated
	case reach == access.Never,
		reach == access.Own && owners[op] != a.who.ID,
		a.who.Prefix != "" && method != http.MethodGet:
		return api.Forbidden
	}
	return ""
}

// Every operation is asked for by everybody, and each gets what the table says. An operation that is new needs a row there,
// and what it takes for its own owner here.
func TestWhoMayDoWhat(t *testing.T) {
	ca := certstest.New(t)
	server := ca.Source(access.Who{Role: access.Server, ID: "s1"})
	calls := exchanges()
	seen := map[access.Action]bool{}
	for _, methods := range newBench(t).description().Paths {
		for method, o := range methods {
			op := access.Action(o.OperationID)
			seen[op] = true
			at := slices.IndexFunc(calls[o.OperationID], func(e exchange) bool { return e.code == "" })
			if at < 0 || access.Node.Reach(op) == access.Own && owners[op] == "" {
				t.Errorf("%s: add a call to exchanges, and if it is a node's own the node to owners", op)
				continue
			}
			node := owners[op]
			if node == "" {
				node = "a"
			}
			for _, a := range askers(ca, node) {
				t.Run(o.OperationID+" by "+a.name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						b := benchOf(t, func(cfg *Config) {
							cfg.Certs = server
							if a.before != nil {
								a.before(cfg)
							}
						})
						b.judge(a, calls[o.OperationID][at], expected(a, op, strings.ToUpper(method)))
					})
				})
			}
		}
	}
	for _, row := range access.Rows() {
		if !seen[row.Action] && !slices.Contains(notHTTP, row.Action) {
			t.Errorf("%s is in the table of access and no operation", row.Action)
		}
	}
}

// judge does a good call over populated and looks whether it is refused as expected.
func (b *bench) judge(a asker, e exchange, want api.Code) {
	b.t.Helper()
	required := b.h.(*server).certsRequired
	b.h.(*server).certsRequired = false // who made all that is not asked
	b.populated()
	if e.before != nil {
		e.before(b)
	}
	if a.token != nil {
		b.token("of-somebody", &fsm.CreateToken{Role: "admin"})
	}
	if a.who.Token != "" {
		b.token(a.who.Token, a.token)
	}
	if a.who.Role == access.Anonymous && !b.reg.Newest().AdmitsAnonymous() {
		want = api.Unauthenticated // there is a token that the call is about
	}
	b.h.(*server).certsRequired = required
	asked := len(b.reg.Asked)
	rec := b.ask(a, e)
	got, _ := failed(rec)
	switch {
	case got != want:
		b.t.Fatalf("status %d %s, want %q: %s", rec.Code, got, want, rec.Body)
	case (rec.Code == http.StatusUnauthorized) != (rec.Header().Get("WWW-Authenticate") != ""):
		b.t.Errorf("status %d with %v", rec.Code, rec.Header())
	}
	for _, e := range b.reg.Asked[asked:] {
		o := e.Origin
		if o == nil || o.GetRole() != a.who.Role.String() || o.GetId() != a.who.ID || o.GetToken() != a.who.Token || o.GetSource() != "192.0.2.1" {
			b.t.Errorf("origin %v of %v", o, a.who)
		}
		if name := a.who.String(); a.who.Role != access.Anonymous && e.Actor != name || a.who.Role == access.Anonymous && e.Actor != "anonymous@192.0.2.1" {
			b.t.Errorf("actor %q of %s", e.Actor, name)
		}
	}
}

// failed is the code of an error reply and its detail.
func failed(rec *httptest.ResponseRecorder) (api.Code, string) {
	var p problem
	if rec.Code/100 == 2 || json.Unmarshal(rec.Body.Bytes(), &p) != nil {
		return "", ""
	}
	return p.Code, p.Detail
}

// A name that the client gives itself is not taken from who is known.
func TestActorCannotBeChosen(t *testing.T) {
	b := newBench(t)
	b.ok(200, nil, "PUT", "/v1/nodes/a", `{"addr":"h:1"}`, api.HeaderActor, "alice", api.HeaderReason, "größer")
	if e := b.reg.Last(); e.Actor != "alice" || e.Origin.GetReason() != "größer" || e.Origin.GetRole() != "anonymous" {
		t.Errorf("%+v", e)
	}
	b.token("op", &fsm.CreateToken{Role: "admin"})
	b.ok(200, nil, "PUT", "/v1/nodes/a", `{"addr":"h:2"}`, append(bearing("op"), api.HeaderActor, "alice")...)
	if e := b.reg.Last(); e.Actor != "admin token:op" {
		t.Errorf("actor %q", e.Actor)
	}
	b.refused(api.Invalid, "PUT", "/v1/nodes/a", `{"addr":"h:2"}`, append(bearing("op"), api.HeaderReason, "a\u2028b")...)
}

// What is shown counts, and what is bad is refused whatever stands beside it.
func TestCredentials(t *testing.T) {
	ca := certstest.New(t)
	b := benchOf(t, func(cfg *Config) { cfg.Certs = ca.Source(access.Who{Role: access.Server, ID: "s1"}) })
	b.token("admin", &fsm.CreateToken{Role: "admin"})
	b.token("viewer", &fsm.CreateToken{Role: "viewer"})
	b.token("old", &fsm.CreateToken{Role: "viewer", ExpiresMs: time.Now().Add(time.Hour).UnixMilli()})
	root := ca.Shown(access.Who{Role: access.Admin}, "test", time.Time{})
	wrong := strings.Replace(secretOf("admin").Text(), "srt_admin_", "srt_viewer_", 1)
	set := send("PUT", "/v1/nodes/a", `{"addr":"h:1"}`)
	for what, c := range map[string]struct {
		a    asker
		want api.Code
	}{
		"a certificate":                       {asker{tls: root}, ""},
		"a token and a certificate":           {asker{tls: root, header: bearing("viewer")}, api.Forbidden},
		"a bad token and a good certificate":  {asker{tls: root, header: []string{"Authorization", "Bearer " + wrong}}, api.Unauthenticated},
		"an unknown token and a certificate":  {asker{tls: root, header: bearing("none")}, api.Unauthenticated},
		"two tokens":                          {asker{header: append(bearing("admin"), bearing("admin")...)}, api.Unauthenticated},
		"another scheme":                      {asker{tls: root, header: []string{"Authorization", "Basic YTpi"}}, api.Unauthenticated},
		"no scheme":                           {asker{header: []string{"Authorization", secretOf("admin").Text()}}, api.Unauthenticated},
		"an empty header":                     {asker{tls: root, header: []string{"Authorization", ""}}, api.Unauthenticated},
		"a scheme in lower case":              {asker{header: []string{"Authorization", "bearer " + secretOf("admin").Text()}}, ""},
		"a certificate of another cluster":    {asker{tls: ca.Shown(access.Who{Role: access.Admin}, "other", time.Time{})}, api.Unauthenticated},
		"a certificate that ended since":      {asker{tls: ca.Shown(access.Who{Role: access.Admin}, "test", time.Now().Add(-time.Second))}, api.Unauthenticated},
		"a connection without a certificate":  {asker{tls: &tls.ConnectionState{}}, api.Unauthenticated},
		"a certificate that was not verified": {asker{tls: &tls.ConnectionState{PeerCertificates: root.PeerCertificates}}, api.Unauthenticated},
	} {
		if got, detail := failed(b.ask(c.a, set)); got != c.want {
			t.Errorf("%s: %q (%s), want %q", what, got, detail, c.want)
		}
	}
	for _, path := range []string{"/healthz", "/readyz", "/openapi.json"} { // open, whatever is shown
		if rec := b.ask(asker{header: bearing("none")}, get(path)); rec.Code != 200 {
			t.Errorf("%s: %d", path, rec.Code)
		}
	}
}

// An operator of one prefix changes scopes under it, and nothing else.
func TestOperatorOfAPrefix(t *testing.T) {
	b := newBench(t)
	b.populated()
	b.token("admin", &fsm.CreateToken{Role: "admin"})
	b.token("jobs", &fsm.CreateToken{Role: "operator", Prefix: []byte("jobs:")})
	jobs := asker{header: bearing("jobs")}
	for _, c := range []struct {
		e    exchange
		want api.Code
	}{
		{send("PUT", "/v1/scope?prefix=jobs:", `{"writer":"c","fallback":"a"}`), ""},
		{send("POST", "/v1/moves", `{"id":"mj","prefix":"jobs:","from":"c","to":"a","mode":"assisted"}`), ""},
		{send("POST", "/v1/moves/mj/abort", ""), ""},
		{send("POST", "/v1/moves/m1/abort", ""), api.Forbidden},
		{send("POST", "/v1/apply", `{"scopes":[{"prefix":"jobs:","writer":"c"}]}`), ""},
		{send("POST", "/v1/apply", `{"scopes":[{"prefix":"jobs:","writer":"c"},{"prefix":"n:","writer":"c"}]}`), api.Forbidden},
		{send("PUT", "/v1/scope?prefix=job", `{"writer":"c"}`), api.Forbidden},
		{send("POST", "/v1/cluster/transfer", `{"to":"s2"}`), api.Forbidden},
		{send("DELETE", "/v1/scope?prefix=jobs:&source_fenced=c", ""), api.Forbidden}, // the word that a node is off is an admin's
		{get("/v1/scopes"), ""},
	} {
		if got, detail := failed(b.ask(jobs, c.e)); got != c.want {
			t.Errorf("%s %s %s: %q (%s), want %q", c.e.method, c.e.target, c.e.body, got, detail, c.want)
		}
	}
	if b.reg.To != "" {
		t.Error("leadership was transferred")
	}
}

// A word with a session is its node's alone: everybody may read what sessions there are.
func TestWordsOfAnotherNode(t *testing.T) {
	for _, c := range []struct{ node, target, body string }{
		{"x", "/v1/moves/m4/abort", `{"session":"s-x"}`},
		{"y", "/v1/moves/m4/abort", `{"session":"s-y"}`},
		{"x", "/v1/moves/m5/cleaned", `{"session":"s-x","node":"x","prefix":"left:","epoch":9}`},
		{"x", "/v1/moves/m4/progress", `{"session":"s-x","keys":1,"bytes":1,"keys_left":0,"bytes_left":0}`},
		{"z", "/v1/nodes/z/session", `{"identity":"disk-z","session":"s-z","token":"0123456789abcdef0123456789abcdef","incarnation":1,"incarnation_tag":"c1","view_index":3}`},
	} {
		b := newBench(t)
		b.populated()
		b.token("root", &fsm.CreateToken{Role: "admin"})
		for _, node := range []string{"x", "y", "z"} {
			b.token("of-"+node, &fsm.CreateToken{Role: "node", Node: node})
		}
		for _, node := range []string{"x", "y", "z"} {
			if node != c.node {
				b.refused(api.Forbidden, "POST", c.target, c.body, bearing("of-"+node)...)
			}
		}
		b.ok(200, nil, "POST", c.target, c.body, bearing("of-"+c.node)...)
	}
}

// What is no command is looked at in a state as new as the leader's: this server may be behind.
func TestRevokedSinceAdmitted(t *testing.T) {
	b := newBench(t)
	late := &behind{Registry: b.reg, state: b.reg.State()}
	b.h = New(Config{Registry: late})
	b.token("admin", &fsm.CreateToken{Role: "admin"})
	for _, e := range []exchange{send("POST", "/v1/cluster/transfer", `{"to":"s2"}`), send("DELETE", "/v1/cluster/members/s3", ""),
		send("POST", "/v1/cluster/members", `{"id":"s4","addr":"h:1"}`), get("/v1/backup"), send("POST", "/v1/restore?incarnation=2", savedBackup()), send("PUT", "/v1/nodes/a", `{"addr":"h:1"}`)} {
		if got, detail := failed(b.ask(asker{}, e)); got != api.Unauthenticated {
			t.Errorf("%s %s: %q (%s)", e.method, e.target, got, detail)
		}
	}
	if b.reg.To != "" {
		t.Errorf("something was done: %q", b.reg.To)
	}
}

// behind is a server that has not applied what the leader has.
type behind struct {
	Registry
	state fsm.State
}

func (b *behind) State() fsm.State { return b.state }

// No GET changes anything, or asks a server to.
func TestGetChangesNothing(t *testing.T) {
	for id, calls := range exchanges() {
		for _, e := range calls {
			if e.method != http.MethodGet || e.before != nil || e.during != nil {
				continue
			}
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				synctest.Test(t, func(t *testing.T) {
					b := newBench(t)
					b.populated()
					asked, index := len(b.reg.Asked), b.reg.Index
					e.method = method
					b.ask(asker{}, e)
					if len(b.reg.Asked) != asked || b.reg.Index != index || b.reg.To != "" {
						t.Errorf("%s: %s %s changed something", id, method, e.target)
					}
				})
			}
		}
	}
	for path, methods := range newBench(t).description().Paths {
		for method, op := range methods {
			reads := access.Viewer.Reach(access.Action(op.OperationID)) != access.Never
			if reads && method != "get" {
				t.Errorf("%s %s (%s) is for viewers and no GET", method, path, op.OperationID)
			}
		}
	}
}

// Pages of other sites change nothing, whatever the browser would send along.
func TestCrossOrigin(t *testing.T) {
	b := newBench(t)
	for want, headers := range map[api.Code][]string{
		api.Forbidden: {"Sec-Fetch-Site", "cross-site"},
		"":            {"Sec-Fetch-Site", "same-origin"},
	} {
		if got, _ := failed(b.ask(asker{header: headers}, send("PUT", "/v1/nodes/a", `{"addr":"h:1"}`))); got != want {
			t.Errorf("%v: %q", headers, got)
		}
	}
	b.refused(api.Forbidden, "PUT", "/v1/nodes/a", `{"addr":"h:1"}`, "Origin", "https://evil.example")
	if rec := b.do("GET", "/v1/nodes", "", "Sec-Fetch-Site", "cross-site"); rec.Code != 200 || rec.Header().Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("%d %v", rec.Code, rec.Header())
	}
}

func TestEveryReplyIsHardened(t *testing.T) {
	b := newBench(t)
	for _, path := range []string{"/healthz", "/v1/nodes", "/v1/nodes/none", "/nowhere", "/openapi.json", "/metrics", "/v1/backup"} {
		h := b.do("GET", path, "").Header()
		if h.Get("Content-Security-Policy") != "default-src 'none'; frame-ancestors 'none'" || h.Get("X-Content-Type-Options") != "nosniff" ||
			h.Get("Cache-Control") != "no-store" || h.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: %v", path, h)
		}
	}
}

// One caller that holds all it may does not keep others out, nor itself from renewing a lease.
func TestShareOfOneCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.populated()
		hold := make(chan struct{})
		b.reg.Hold = hold
		set := send("PUT", "/v1/nodes/a", `{"addr":"h:1"}`)
		replies := make(chan int, maxRequestsEach)
		for range maxRequestsEach {
			go func() { replies <- b.ask(asker{}, set).Code }()
		}
		synctest.Wait()
		got, detail := failed(b.ask(asker{}, get("/v1/nodes")))
		contains(t, detail, "anonymous@192.0.2.1", fmt.Sprint(maxRequestsEach))
		if got != api.Limit {
			t.Errorf("%q", got)
		}
		if rec := b.do("PUT", "/v1/sessions/s-x", b.reaching()); rec.Code != 200 {
			t.Errorf("a renewal: %d %s", rec.Code, rec.Body)
		}
		close(hold)
		for range maxRequestsEach {
			if code := <-replies; code != 200 {
				t.Errorf("%d", code)
			}
		}
		if got, _ := failed(b.ask(asker{}, get("/v1/nodes"))); got != "" {
			t.Errorf("afterwards: %q", got)
		}
		if left := len(b.h.(*server).requests.held); left != 0 {
			t.Errorf("%d callers are still counted", left)
		}
	})
}

// TestHangingRequestsOfOneCaller: no credential alone takes all connections, by requests whose bodies do not come: neither by
// renewals nor by what is open to all, on connections that somebody known has used.
func TestHangingRequestsOfOneCaller(t *testing.T) {
	for what, sent := range map[string]string{
		"renewals": "PUT /v1/sessions/s-x HTTP/1.1\r\nHost: pipe\r\nAuthorization: Bearer %s\r\nContent-Length: 14\r\n\r\n{",
		"open to all": "GET /v1/nodes HTTP/1.1\r\nHost: pipe\r\nAuthorization: Bearer %s\r\n\r\n" +
			"GET /healthz HTTP/1.1\r\nHost: pipe\r\nContent-Length: 14\r\n\r\n{",
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newBench(t).crowdedBy(fmt.Sprintf(sent, secretOf("node").Text())) })
		})
	}
}

// crowdedBy sends the same on all connections there may be, as a node, and asks on one more.
func (b *bench) crowdedBy(sent string) {
	b.t.Helper()
	b.token("admin", &fsm.CreateToken{Role: "admin"})
	b.token("node", &fsm.CreateToken{Role: "node", Node: "a"})
	w, stop := wired(b.t, b.h)
	b.t.Cleanup(stop)
	open := func(text string) net.Conn {
		conn := w.dial("")
		b.t.Cleanup(func() { _ = conn.Close() })
		go func() { _, _ = io.WriteString(conn, text) }()
		return conn
	}
	for range MaxConns {
		conn := open(sent)
		go func() { _, _ = io.Copy(io.Discard, conn) }()
	}
	synctest.Wait()
	conn := open("GET /v1/nodes HTTP/1.1\r\nHost: pipe\r\nAuthorization: Bearer " + secretOf("admin").Text() + "\r\n\r\n")
	res := w.reply(conn)
	if _ = res.Body.Close(); res.StatusCode != 200 {
		b.t.Errorf("another one is answered %s", res.Status)
	}
}

func TestWatchersOfOneCaller(t *testing.T) {
	b := newBench(t)
	b.h.(*server).watches.limit = 0
	p := b.refused(api.Limit, "GET", "/v1/watch", "")
	contains(t, p.Detail, "0 watchers")
	if n := newShares(maxWatchersEach).limit; n >= MaxConns {
		t.Errorf("one caller may have all %d connections", n)
	}
}

func TestOperationsNeedARow(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("an operation that nobody decided about was taken")
		}
	}()
	mustKnow("shutDown")
}
