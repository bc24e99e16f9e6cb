package respapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/apitest"
)

// user is a go-redis client with its usual options.
type user struct {
	t   testing.TB
	ctx context.Context
	*redis.Client
}

func (b *bench) user(protocol int) *user {
	c := redis.NewClient(&redis.Options{Addr: b.ln.Addr().String(), Protocol: protocol, ClientName: "tester"})
	b.t.Cleanup(func() { c.Close() })
	return &user{b.t, context.Background(), c}
}

// do runs a command of words; %s as a word is one of values.
func (u *user) do(words string, values ...any) (any, error) {
	var args []any
	for _, w := range strings.Fields(words) {
		if w == "%s" {
			args, values = append(args, values[0]), values[1:]
		} else {
			args = append(args, w)
		}
	}
	return u.Do(u.ctx, args...).Result()
}

func (u *user) ok(words string, values ...any) {
	u.t.Helper()
	if got, err := u.do(words, values...); err != nil || got != "OK" {
		u.t.Fatalf("%s: %v, %v", words, got, err)
	}
}

// record reads a map, which RESP2 sends as an array of names and values.
func (u *user) record(words string, values ...any) map[any]any {
	u.t.Helper()
	got, err := u.do(words, values...)
	if err != nil {
		u.t.Fatalf("%s: %v", words, err)
	}
	return asMap(u.t, got)
}

func asMap(t testing.TB, v any) map[any]any {
	t.Helper()
	switch v := v.(type) {
	case map[any]any:
		return v
	case []any:
		out := map[any]any{}
		for i := 0; i+1 < len(v); i += 2 {
			out[v[i]] = v[i+1]
		}
		return out
	}
	t.Fatalf("%T is no map: %v", v, v)
	return nil
}

func (u *user) fails(code, words string) {
	u.t.Helper()
	var refused redis.Error
	if got, err := u.do(words); !errors.As(err, &refused) || !strings.HasPrefix(err.Error(), code) {
		u.t.Errorf("%s: %v, %v; want %s", words, got, err, code)
	}
}

func eachProtocol(t *testing.T, run func(t *testing.T, b *bench, u *user)) {
	for _, protocol := range []int{2, 3} {
		t.Run(fmt.Sprintf("RESP%d", protocol), func(t *testing.T) {
			b := onTCP(t)
			run(t, b, b.user(protocol))
		})
	}
}

func TestGoRedisScopes(t *testing.T) {
	eachProtocol(t, func(t *testing.T, _ *bench, u *user) {
		u.ok("SCOPE NODE SET a 10.0.0.1:6004")
		u.ok("SCOPE NODE SET b 10.0.0.2:6004")
		u.ok("SCOPE NODE SET c 10.0.0.3:6004")
		u.ok("SCOPE NODE DEL c")
		u.ok("SCOPE DECLARE app: WRITER a FALLBACK b FAILOVER manual LEASE auto")
		u.ok("SCOPE DECLARE %s WRITER a", []byte("\x00\xff"))
		u.ok("SCOPE RETIRE %s", []byte("\x00\xff"))
		if got := u.record("SCOPE GET app:"); got["owner"] != "a" || got["fallback"] != "b" || got["epoch"] != int64(1) || got["move"] != nil {
			t.Errorf("%v", got)
		}
		list, err := u.do("SCOPE LIST MATCH app COUNT 5")
		if page, ok := list.([]any); err != nil || !ok || len(page) != 2 || page[0] != nil || asMap(t, page[1].([]any)[0])["prefix"] != "app:" {
			t.Errorf("%v, %v", list, err)
		}
		nodes, err := u.do("SCOPE NODES")
		if all, ok := nodes.([]any); err != nil || !ok || len(all) != 2 || asMap(t, all[1])["addr"] != "10.0.0.2:6004" {
			t.Errorf("%v, %v", nodes, err)
		}
		if got, err := u.do("SCOPE ROUTE app:1 AS a"); err != nil || got != "OWNED" {
			t.Errorf("%v, %v", got, err)
		}
		if got, err := u.do("SCOPE ROUTE x AS a LINEARIZABLE"); err != nil || got != "UNKNOWN" {
			t.Errorf("%v, %v", got, err)
		}
		u.fails("MISDIRECTED writer is 10.0.0.1:6004", "SCOPE ROUTE app:1 AS b")
		if got := u.record("SCOPE ROUTE app:1"); got["addr"] != "10.0.0.1:6004" || got["state"] != "owned" || got["target"] != nil {
			t.Errorf("%v", got)
		}
		if got := u.record("SCOPE EXPLAIN app:1"); asMap(t, got["scope"])["writer"] != "a" || fmt.Sprint(got["lagging"]) != "[s2 s3]" {
			t.Errorf("%v", got)
		}
		help, err := u.do("SCOPE HELP")
		if lines, ok := help.([]any); err != nil || !ok || len(lines) < 40 {
			t.Errorf("%v, %v", help, err)
		}
		u.fails("OVERLAP", "SCOPE DECLARE app:sub WRITER a")
		u.fails("ERR unknown command 'get'", "get x")
	})
}

func TestGoRedisMoves(t *testing.T) {
	eachProtocol(t, func(t *testing.T, b *bench, u *user) {
		b.reg.declared(t)
		watch := u.Subscribe(u.ctx, Channel)
		defer watch.Close()
		if _, err := watch.Receive(u.ctx); err != nil {
			t.Fatal(err)
		}
		ended := make(chan string, 1)
		go func() {
			got, err := u.do("MOVE-SCOPE app: FROM a TO b MODE assisted PRECOPY WINDOW 5000 TIMEOUT 60000 ID m1 REASON why")
			ended <- fmt.Sprint(got, err)
		}()
		change := nextChange(t, u, watch)
		if m := change.Changes[0].Move; m == nil || m.ID != "m1" || m.Actor != "resp:tester@127.0.0.1" {
			t.Fatalf("%+v", change)
		}
		if got := u.record("SCOPE MOVE m1"); got["phase"] != "copying" || asMap(t, got["waiting"])["since_ms"] != int64(apitest.EntryMS) {
			t.Errorf("%v", got)
		}
		u.ok("SCOPE QUIESCE m1")
		u.fails("QUIESCED migrating to 10.0.0.2:6004", "SCOPE ROUTE app:1 AS a")
		u.ok("SCOPE SHIPPED m1 KEYS 3 BYTES 9 DIGEST d")
		u.ok("SCOPE READY m1 KEYS 3 BYTES 9 DIGEST d")
		if got := <-ended; got != "OK 3<nil>" {
			t.Errorf("%s", got)
		}
		u.ok("SCOPE CLEANED m1 node a is off")
		id, err := u.do("MOVE-SCOPE app: FROM b TO a MODE assisted ASYNC")
		if err != nil {
			t.Fatal(err)
		}
		moves, err := u.do("SCOPE MOVES ACTIVE")
		if all, ok := moves.([]any); err != nil || !ok || len(all) != 1 || asMap(t, all[0])["id"] != id {
			t.Errorf("%v, %v", moves, err)
		}
		u.ok("SCOPE ABORT %s changed my mind", id)
		u.fails("WRONG_PHASE", fmt.Sprint("SCOPE ABORT ", id))
	})
}

func nextChange(t *testing.T, u *user, watch *redis.PubSub) api.WatchItem {
	t.Helper()
	m, err := watch.ReceiveMessage(u.ctx)
	if err != nil {
		t.Fatal(err)
	}
	var item api.WatchItem
	if err := json.Unmarshal([]byte(m.Payload), &item); err != nil || m.Channel != Channel || item.Type != "change" || len(item.Changes) == 0 {
		t.Fatalf("%v in %+v", err, m)
	}
	return item
}

func TestGoRedisSubscription(t *testing.T) {
	eachProtocol(t, func(t *testing.T, b *bench, u *user) {
		b.changes(0, 3)
		watch := u.Subscribe(u.ctx, Channel)
		defer watch.Close()
		if _, err := watch.Receive(u.ctx); err != nil {
			t.Fatal(err)
		}
		if err := watch.Ping(u.ctx, "here"); err != nil {
			t.Fatal(err)
		}
		if m, err := watch.Receive(u.ctx); err != nil || fmt.Sprint(m) != "Pong<here>" {
			t.Errorf("%v, %v", m, err)
		}
		b.changes(3, 100)
		for i := range 100 {
			if item := nextChange(t, u, watch); item.Index != uint64(4+i) {
				t.Fatalf("index %d, want %d", item.Index, 4+i)
			}
		}
		if err := watch.Unsubscribe(u.ctx, Channel); err != nil {
			t.Fatal(err)
		}
		if m, err := watch.Receive(u.ctx); err != nil || m.(*redis.Subscription).Count != 0 {
			t.Errorf("%v, %v", m, err)
		}
		other := u.PSubscribe(u.ctx, "*")
		defer other.Close()
		if m, err := other.Receive(u.ctx); err == nil {
			t.Errorf("%v", m)
		}
	})
}

// What clients ask of a Redis when they connect, and of an operator's tool.
func TestGoRedisConnects(t *testing.T) {
	eachProtocol(t, func(t *testing.T, b *bench, u *user) {
		if err := u.Ping(u.ctx).Err(); err != nil {
			t.Fatal(err)
		}
		if got, err := u.Echo(u.ctx, "x").Result(); err != nil || got != "x" {
			t.Errorf("%v, %v", got, err)
		}
		if got, err := u.ClientGetName(u.ctx).Result(); err != nil || got != "tester" {
			t.Errorf("%v, %v", got, err)
		}
		info, err := u.ClientInfo(u.ctx).Result()
		if err != nil || info.Name != "tester" || !strings.Contains(info.LibName, "go-redis") || info.LibVer == "" {
			t.Errorf("%+v, %v", info, err)
		}
		facts, err := u.InfoMap(u.ctx).Result()
		if err != nil || facts["Registry"]["id"] != "s1" || facts["Server"]["redis_version"] != redisVersion || facts["Replication"]["role"] != "master" {
			t.Errorf("%v, %v", facts, err)
		}
		commands, err := u.Command(u.ctx).Result()
		if err != nil || commands["scope"] == nil || commands["move-scope"].Arity != -6 || commands["ping"].Arity != -1 || commands["echo"].Arity != 2 {
			t.Errorf("%v, %v", commands, err)
		}
		if got, err := u.ConfigGet(u.ctx, "maxmemory").Result(); err != nil || len(got) != 0 {
			t.Errorf("%v, %v", got, err)
		}
		if err := u.ClusterShards(u.ctx).Err(); err == nil || err.Error() != "ERR This instance has cluster support disabled" {
			t.Errorf("%v", err)
		}
		docs, err := u.Do(u.ctx, "COMMAND", "DOCS", "scope", "nothing").Result()
		if err != nil {
			t.Fatal(err)
		}
		subs := asMap(t, asMap(t, asMap(t, docs)["scope"])["subcommands"])
		if route := asMap(t, subs["scope|route"]); len(subs) < 15 || route["group"] != groupRegistry {
			t.Errorf("%v", subs)
		}
		locked := redis.NewClient(&redis.Options{Addr: b.ln.Addr().String(), Protocol: u.Options().Protocol, Password: "secret"})
		defer locked.Close()
		if err := locked.Ping(u.ctx).Err(); err == nil || !strings.Contains(err.Error(), "without any password configured") {
			t.Errorf("%v", err)
		}
	})
}

func TestGoRedisPipeline(t *testing.T) {
	eachProtocol(t, func(t *testing.T, b *bench, u *user) {
		b.reg.declared(t)
		b.reg.apply(t, &fsm.Declare{Prefix: []byte("b:"), Writer: "b"})
		var answers []*redis.Cmd
		_, _ = u.Pipelined(u.ctx, func(p redis.Pipeliner) error { // the first error, which is a verdict
			for i := range 5000 {
				answers = append(answers, p.Do(u.ctx, "SCOPE", "ROUTE", fmt.Sprintf("%s:%d", []string{"app", "b"}[i%2], i), "AS", "a"))
			}
			return nil
		})
		for i, a := range answers {
			got, err := a.Result()
			if i%2 == 0 && (err != nil || got != "OWNED") || i%2 == 1 && (err == nil || err.Error() != "MISDIRECTED writer is 10.0.0.2:6004") {
				t.Fatalf("%d: %v, %v", i, got, err)
			}
		}
	})
}
