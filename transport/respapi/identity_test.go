package respapi

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/apitest"
)

// token is one whose secret follows from its id.
func token(t testing.TB, id string) access.Token {
	t.Helper()
	made, err := access.NewToken(id, sha256.Sum256([]byte(id)))
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// admit makes a token for each role, named as the role, and one of an operator for app: alone.
func (b *bench) admit() {
	b.t.Helper()
	b.reg.apply(b.t,
		&fsm.CreateToken{Id: "admin", Hash: token(b.t, "admin").Hash(), Role: "admin", First: true},
		&fsm.CreateToken{Id: "viewer", Hash: token(b.t, "viewer").Hash(), Role: "viewer"},
		&fsm.CreateToken{Id: "node", Hash: token(b.t, "node").Hash(), Role: "node", Node: "a"},
		&fsm.CreateToken{Id: "operator", Hash: token(b.t, "operator").Hash(), Role: "operator"},
		&fsm.CreateToken{Id: "limited", Hash: token(b.t, "limited").Hash(), Role: "operator", Prefix: []byte("app:")})
}

func (c *client) auth(id string) {
	c.t.Helper()
	c.want("AUTH "+token(c.t, id).Text(), "+OK\r\n")
}

// TestRoles asks for every command as every role, and compares with the table.
func TestRoles(t *testing.T) {
	b := onTCP(t)
	b.reg.declared(t)
	b.admit()
	for _, role := range []access.Role{access.Nobody, access.Viewer, access.Node, access.Operator, access.Admin} {
		for _, cmd := range b.srv.listed {
			if cmd.name == "QUIT" || cmd.name == "HELLO" && role == access.Nobody {
				continue
			}
			c := b.dial()
			if role != access.Nobody {
				c.auth(role.String())
			}
			got := c.ask(strings.TrimSpace(cmd.name + strings.Repeat(" x", cmd.min)))
			want := ""
			switch {
			case cmd.action == access.Connect:
			case role == access.Nobody:
				want = "-NOAUTH "
			case role.Reach(cmd.action) == access.Never:
				want = "-NOPERM "
			}
			if refused := strings.HasPrefix(got, "-NOAUTH ") || strings.HasPrefix(got, "-NOPERM "); refused != (want != "") && role.Reach(cmd.action) != access.Own || !strings.HasPrefix(got, want) {
				t.Errorf("%s as %v: %.100q, want %q", cmd.name, role, got, want)
			}
			c.nc.Close()
		}
	}
}

func TestWhoMayDoWhat(t *testing.T) {
	b := onTCP(t)
	b.reg.declared(t)
	b.admit()
	node, limited, operator := b.dial(), b.dial(), b.dial()
	node.auth("node")
	limited.auth("limited")
	operator.auth("operator")
	node.want("SCOPE NODE SET a 10.0.0.1:7000", "+OK\r\n")
	contains(t, node.ask("SCOPE NODE SET b 10.0.0.2:7000"), "-NOPERM node/a token:node ", "for itself only")
	contains(t, node.ask("SCOPE DECLARE shop: WRITER a"), "-NOPERM ")
	limited.want("SCOPE DECLARE app: WRITER a FALLBACK b", "+OK\r\n")
	contains(t, limited.ask("SCOPE DECLARE shop: WRITER a"), "-NOPERM operator token:limited ", `"app:"`)
	contains(t, limited.ask("SCOPE NODE DEL c"), "-NOPERM ")
	contains(t, operator.ask("SCOPE RETIRE app: SOURCE-FENCED a"), "-NOPERM ", "admin")
	operator.want("SCOPE DECLARE shop: WRITER b", "+OK\r\n")
	last := b.reg.Asked[len(b.reg.Asked)-1]
	if last.Actor != "operator token:operator" || last.Origin.GetToken() != "operator" || last.Origin.GetSource() != "127.0.0.1" {
		t.Errorf("recorded: %q %v", last.Actor, last.Origin)
	}
	contains(t, operator.ask("CLIENT LIST"), "user=node/a,token:node ", "user=operator,token:operator ")
}

func TestAuth(t *testing.T) {
	b := onTCP(t)
	c := b.dial()
	contains(t, c.ask("AUTH "+token(t, "admin").Text()), "-ERR AUTH <password> called without any password")
	c.want("PING", "+PONG\r\n")
	b.admit()
	contains(t, c.ask("INFO"), "-NOAUTH ") // whoever was let in unknown is not any more
	contains(t, c.ask("HELLO 3"), "-NOAUTH HELLO must be called")
	for _, bad := range []string{"x", "srt_admin_00", token(t, "nobody").Text(), strings.Replace(token(t, "admin").Text(), "admin", "viewer", 1)} {
		got := c.ask("AUTH " + bad)
		contains(t, got, "-WRONGPASS ")
		if len(bad) > 5 && strings.Contains(got, bad[5:]) {
			t.Errorf("%q repeats the secret", got)
		}
	}
	contains(t, c.ask("HELLO 3 AUTH default "+token(t, "viewer").Text()), "%7\r\n")
	contains(t, c.ask("AUTH x"), "-WRONGPASS ")
	contains(t, c.ask("SCOPE LIST"), "*2\r\n") // as it was
	c.auth("admin")
	c.want("RESET", "+RESET\r\n")
	contains(t, c.ask("SCOPE LIST"), "-NOAUTH ")
}

func TestRevokedAtOnce(t *testing.T) {
	b := onTCP(t)
	b.admit()
	c, watching, other := b.dial(), b.dial(), b.dial()
	c.auth("viewer")
	watching.auth("viewer")
	other.auth("operator")
	contains(t, watching.ask("SUBSCRIBE scope.events"), "subscribe")
	other.want("SUBSCRIBE scope.events", "*3\r\n$9\r\nsubscribe\r\n$12\r\nscope.events\r\n:1\r\n")
	contains(t, c.ask("SCOPE LIST"), "*2\r\n")
	b.reg.apply(t, &fsm.RevokeToken{Id: "viewer"})
	contains(t, c.ask("SCOPE LIST"), "-NOAUTH ")
	contains(t, watching.closed(), "-NOAUTH ", "revoked")
	b.reg.apply(t, &fsm.SetNode{Id: "z", Addr: "10.0.0.9:1"})
	contains(t, other.next(), "message", `"z"`) // nothing was to be seen of the token
	if got := b.metric("scope_registry_resp_refused_total", "revoked"); got != 1 {
		t.Errorf("%v subscriptions were counted", got)
	}
}

func TestExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := served(t, newPipes())
		b.admit()
		end := time.UnixMilli(apitest.EntryMS + 1000)
		b.reg.apply(t, &fsm.CreateToken{Id: "short", Hash: token(t, "short").Hash(), Role: "viewer", ExpiresMs: end.UnixMilli()})
		c, watching := b.dial(), b.dial()
		c.auth("short")
		watching.auth("short")
		contains(t, watching.ask("SUBSCRIBE scope.events"), "subscribe")
		time.Sleep(time.Until(end) - time.Millisecond)
		contains(t, c.ask("SCOPE LIST"), "*2\r\n")
		time.Sleep(time.Millisecond)
		contains(t, c.ask("SCOPE LIST"), "-NOAUTH ")
		contains(t, watching.closed(), "-NOAUTH ", "expired")
		contains(t, b.dial().ask("AUTH "+token(t, "short").Text()), "-WRONGPASS ")
	})
}

func TestStrangersHaveLittle(t *testing.T) {
	b := onTCP(t)
	b.admit()
	long := strings.Repeat("x", 20<<10)
	c := b.dial()
	c.send(fmt.Sprintf("*2\r\n$4\r\nECHO\r\n$%d\r\n", len(long)))
	contains(t, c.closed(), "-ERR Protocol error: invalid bulk length", "16384")
	c = b.dial()
	c.send("*11\r\n")
	contains(t, c.closed(), "may have 10")
	c = b.dial()
	c.auth("viewer")
	c.want("ECHO "+long, fmt.Sprintf("$%d\r\n%s\r\n", len(long), long))
	b.reg.apply(t, &fsm.RevokeToken{Id: "viewer"})
	contains(t, c.ask("SCOPE LIST"), "-NOAUTH ")
	c.send("*11\r\n")
	contains(t, c.closed(), "may have 10")
}

// TestLimitsFollowTheToken: within one pipeline, of which all was read at once.
func TestLimitsFollowTheToken(t *testing.T) {
	b := onTCP(t)
	b.admit()
	many := "*12\r\n" + strings.Repeat("$4\r\nQUIT\r\n", 12)
	c := b.dial()
	c.send("AUTH " + token(t, "viewer").Text() + "\r\n" + many)
	contains(t, c.closed(), "+OK\r\n+OK\r\n")
	c = b.dial()
	c.send("HELLO 2 AUTH default " + token(t, "viewer").Text() + "\r\nRESET\r\n" + many)
	contains(t, c.closed(), "+RESET\r\n-ERR Protocol error", "may have 10")
	c = b.dial()
	c.send("HELLO 2 AUTH default " + token(t, "viewer").Text() + "\r\n*5\r\n$5\r\nSCOPE\r\n$5\r\nROUTE\r\n$1\r\nx\r\n$2\r\nAS\r\n$1\r\na\r\n*1\r\n$5\r\nRESET\r\n" + many)
	contains(t, c.closed(), "+UNKNOWN\r\n+RESET\r\n-ERR Protocol error", "may have 10")
}

// TestStrangersMakeRoom: who is nobody makes room for others although he has spoken.
func TestStrangersMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := served(t, newPipes())
		b.admit()
		known := b.dial()
		known.auth("viewer")
		strangers := make([]*client, 0, MaxConns)
		for range MaxConns - 1 {
			c := b.dial()
			c.want("PING", "+PONG\r\n")
			strangers = append(strangers, c)
		}
		next := make(chan *client)
		go func() { next <- b.dial() }()
		contains(t, strangers[0].closed(), "-LIMIT ", "made room")
		c := <-next
		c.auth("node")
		contains(t, known.ask("SCOPE LIST"), "*2\r\n")
	})
}

// TestWhoBecameNobodyMakesRoom: so does whoever was let in unknown, and is not any more.
func TestWhoBecameNobodyMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := served(t, newPipes())
		all := make([]*client, 0, MaxConns)
		for range MaxConns {
			c := b.dial()
			c.want("PING", "+PONG\r\n")
			all = append(all, c)
		}
		contains(t, b.dial().closed(), "-LIMIT ") // all are somebody's
		b.admit()
		all[0].auth("viewer")
		next := make(chan *client)
		go func() { next <- b.dial() }()
		contains(t, all[1].closed(), "-LIMIT ", "made room")
		(<-next).auth("node")
		contains(t, all[0].ask("SCOPE LIST"), "*2\r\n")
	})
}

// TestOneCallerLeavesRoom: whoever is known has three quarters of the connections at most.
func TestOneCallerLeavesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := served(t, newPipes())
		b.admit()
		var greedy []*client
		for range MaxConnsEach {
			c := b.dial()
			c.auth("viewer")
			contains(t, c.ask("SCOPE LIST"), "*2\r\n")
			greedy = append(greedy, c)
		}
		b.reg.apply(t, &fsm.RevokeToken{Id: "limited"})    // all are looked at anew
		contains(t, greedy[2].ask("SCOPE LIST"), "*2\r\n") // and are no more than they were
		more := b.dial()
		more.auth("viewer")
		contains(t, more.ask("SCOPE LIST"), "-LIMIT viewer token:viewer has 3072 connections")
		more.closed()
		other := b.dial()
		other.auth("operator")
		contains(t, other.ask("SCOPE LIST"), "*2\r\n")
		greedy[0].auth("node") // one that is somebody else's from now on
		contains(t, greedy[0].ask("SCOPE LIST"), "*2\r\n")
		greedy[1].nc.Close()
		synctest.Wait()
		for range 2 {
			c := b.dial()
			c.auth("viewer")
			contains(t, c.ask("SCOPE LIST"), "*2\r\n")
		}
		if got := b.metric("scope_registry_resp_refused_total", "share"); got != 1 {
			t.Errorf("%v were refused", got)
		}
	})
}

// TestNoSecretIsLogged sends a token in every place, and looks for it in the log.
func TestNoSecretIsLogged(t *testing.T) {
	var log bytes.Buffer
	reg := newMemory(t)
	srv := New(Config{Registry: reg, Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: &log, JSONFormat: true})})
	b := &bench{t: t, reg: reg, srv: srv}
	b.admit()
	good, bad := token(t, "admin").Text(), token(t, "admin").Text()+"0"
	var sent bytes.Buffer
	c := newConn(srv, keeping{got: &sent}, 1)
	for _, words := range [][]string{{"AUTH", good}, {"AUTH", "default", bad}, {"HELLO", "3", "AUTH", "default", bad}, {"AUTH", good, good, good}, {"CLIENT", "LIST"},
		{"ATUH", good}, {good}, {"SCOPE", good}, {"HELLO", "3", good}, {"AUTH", good}, {"SCOPE", "ROUTE", "k", good}, {"SCOPE", "MOVE", good}, {"SCOPE", "NODE", "SET", good, "h:1"}} {
		c.execute(c.caller(), arguments(words...))
	}
	_ = c.flush()
	for _, text := range []string{log.String(), sent.String()} {
		if secret := good[len("srt_admin_"):]; strings.Contains(text, secret) {
			t.Errorf("the secret is in %q", text)
		}
	}
	if sent.Len() == 0 {
		t.Error("nothing was answered")
	}
}
