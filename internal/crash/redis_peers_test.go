//go:build peers

package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/scope-registry/scope-registry/transport/resp"
)

// recorder stands between a client and a server and keeps what the client sent.
type recorder struct {
	ln   net.Listener
	to   string
	mu   sync.Mutex // guards sent
	sent []*bytes.Buffer
	all  sync.WaitGroup
}

// record starts a recorder in front of the address to.
func record(t *testing.T, to string) *recorder {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{ln: ln, to: to}
	r.all.Go(r.accept)
	t.Cleanup(func() {
		_ = ln.Close()
		r.all.Wait()
	})
	return r
}

func (r *recorder) port() string {
	_, port, _ := net.SplitHostPort(r.ln.Addr().String())
	return port
}

func (r *recorder) accept() {
	for {
		from, err := r.ln.Accept()
		if err != nil {
			return
		}
		to, err := net.Dial("tcp", r.to)
		if err != nil {
			_ = from.Close()
			continue
		}
		buf := &bytes.Buffer{}
		r.mu.Lock()
		r.sent = append(r.sent, buf)
		r.mu.Unlock()
		r.all.Go(func() {
			_, _ = io.Copy(to, io.TeeReader(from, locked{r, buf}))
			_ = to.(*net.TCPConn).CloseWrite()
		})
		r.all.Go(func() {
			_, _ = io.Copy(from, to)
			_ = from.Close()
			_ = to.Close()
		})
	}
}

// locked writes to a buffer that commands reads at the same time.
type locked struct {
	r   *recorder
	buf *bytes.Buffer
}

func (l locked) Write(p []byte) (int, error) {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	return l.buf.Write(p)
}

// commands are the commands that came in, each kind once, in their order. Words
// after the first two are left out, as they are the test's own.
func (r *recorder) commands(t *testing.T) []string {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, buf := range r.sent {
		in := resp.NewReader(bytes.NewReader(buf.Bytes()), resp.DefaultLimits())
		for {
			args, err := in.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("the client sent what our own reader does not read: %v", err)
			}
			name := strings.ToUpper(string(args[0]))
			if len(args) > 1 && slices.Contains([]string{"CLIENT", "COMMAND", "CONFIG", "SCOPE", "HELLO"}, name) {
				name += " " + strings.ToUpper(string(args[1]))
			}
			if !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out
}

// answers runs redis-cli and returns what it printed, an error reply included.
func answers(ctx context.Context, t *testing.T, port string, args ...string) string {
	t.Helper()
	return strings.TrimSpace(string(program(ctx, t, nil, "redis-cli", append([]string{"-p", port}, args...)...)))
}

// moving is a cluster with a scope of a, and a recorder in front of a follower.
func moving(ctx context.Context, t *testing.T) (*Cluster, *recorder) {
	t.Helper()
	c := opened(ctx, t)
	nodes(ctx, t, c, "a", "b")
	leader, err := c.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	follower := c.IDs()[0]
	if follower == leader {
		follower = c.IDs()[1]
	}
	return c, record(t, c.RESP(follower))
}

// TestPeerRedisCLI drives a follower with the real redis-cli, one command a call.
func TestPeerRedisCLI(t *testing.T) {
	ctx := bounded(t, 90*time.Second)
	c, r := moving(ctx, t)
	at := r.port()
	for _, step := range []struct {
		args []string
		want string // regular expression
	}{
		{[]string{"PING"}, `^PONG$`},
		{[]string{"SCOPE", "DECLARE", "app:billing:", "WRITER", "a"}, `^OK$`},
		{[]string{"SCOPE", "ROUTE", "app:billing:1", "AS", "a"}, `^OWNED$`},
		{[]string{"SCOPE", "ROUTE", "app:billing:1", "AS", "b"}, `^MISDIRECTED writer is 10\.0\.0\.1:6004$`},
		{[]string{"-3", "SCOPE", "ROUTE", "app:billing:1"}, `(?m)^owner a$`},
		{[]string{"MOVE-SCOPE", "app:billing:", "FROM", "a", "TO", "b"}, `^NODE_DOWN .*assisted`},
		{[]string{"move-scope", "app:billing:", "from", "a", "to", "b", "mode", "assisted", "id", "m1", "async"}, `^m1$`},
		{[]string{"SCOPE", "ROUTE", "app:billing:1", "AS", "a", "LINEARIZABLE"}, `^QUIESCED migrating to 10\.0\.0\.2:6004$`},
		{[]string{"SCOPE", "EXPLAIN", "app:billing:1"}, `(?s)move.*m1`},
		{[]string{"SCOPE", "SHIPPED", "m1", "KEYS", "7", "BYTES", "70"}, `^OK$`},
		{[]string{"SCOPE", "READY", "m1", "KEYS", "7", "BYTES", "70"}, `^OK$`},
		{[]string{"SCOPE", "MOVE", "m1"}, `(?s)done`},
		{[]string{"SCOPE", "ROUTE", "app:billing:1", "AS", "b"}, `^OWNED$`},
		{[]string{"INFO", "server"}, `redis_version:`},
		{[]string{"GET", "app:billing:1"}, `^ERR unknown command`},
	} {
		if got := answers(ctx, t, at, step.args...); !regexp.MustCompile(step.want).MatchString(got) {
			t.Errorf("redis-cli %s printed\n%s\nwant %s", strings.Join(step.args, " "), got, step.want)
		}
	}
	// A waiting MOVE-SCOPE on this server, whose move is ended on another one.
	_, other, _ := net.SplitHostPort(c.RESP(c.IDs()[2]))
	_ = answers(ctx, t, other, "SCOPE", "DECLARE", "app:back:", "WRITER", "a")
	waited := make(chan string, 1)
	go func() {
		out, err := exec.CommandContext(ctx, "redis-cli", "-p", at, "MOVE-SCOPE", "app:back:", "FROM", "a", "TO", "b",
			"MODE", "assisted", "ID", "m2").CombinedOutput()
		waited <- fmt.Sprint(strings.TrimSpace(string(out)), err)
	}()
	if err := c.Wait(ctx, "the move to run", func(ctx context.Context) error {
		_, err := c.Get(ctx, c.IDs()[2], "/v1/moves/m2", nil)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"SHIPPED", "READY"} {
		if got := answers(ctx, t, other, "SCOPE", word, "m2", "KEYS", "3", "BYTES", "9"); got != "OK" {
			t.Fatalf("SCOPE %s printed %s", word, got)
		}
	}
	if got := <-waited; !strings.HasPrefix(got, "OK 3") {
		t.Errorf("the waiting MOVE-SCOPE printed %q", got)
	}
	t.Logf("redis-cli, one command a call, sent: %s", strings.Join(r.commands(t), ", "))
}

// TestPeerRedisCLIInteractive types into redis-cli on a terminal, a dumb one: on
// others redis-cli throws away what was typed before its prompt.
func TestPeerRedisCLIInteractive(t *testing.T) {
	ctx := bounded(t, 60*time.Second)
	for _, version := range []string{"-2", "-3"} {
		_, r := moving(ctx, t)
		typed := "PING\nSCOPE DECLARE app: WRITER a\nSCOPE ROUTE app:1 AS b\nSCOPE GET app:\nQUIT\n"
		out := string(program(ctx, t, []byte(typed), "script", "-qec", "TERM=dumb redis-cli "+version+" -p "+r.port(), "/dev/null"))
		for _, want := range []string{"PONG", "OK", "MISDIRECTED writer is 10.0.0.1:6004", "epoch"} {
			if !strings.Contains(out, want) {
				t.Errorf("redis-cli %s showed\n%s\nwithout %q", version, out, want)
			}
		}
		t.Logf("redis-cli %s on a terminal sent: %s", version, strings.Join(r.commands(t), ", "))
	}
}

// TestPeerRedisBenchmark has redis-benchmark ask for routes with 50 connections.
func TestPeerRedisBenchmark(t *testing.T) {
	ctx := bounded(t, 90*time.Second)
	_, r := moving(ctx, t)
	_ = answers(ctx, t, r.port(), "SCOPE", "DECLARE", "app:", "WRITER", "a")
	for _, pipeline := range []string{"1", "16"} {
		out := string(program(ctx, t, nil, "redis-benchmark", "-p", r.port(), "-n", "20000", "-c", "50", "-P", pipeline, "-q",
			"SCOPE", "ROUTE", "app:__rand_int__", "AS", "a"))
		if !strings.Contains(out, "requests per second") || strings.Contains(strings.ToLower(out), "error") {
			t.Errorf("redis-benchmark printed\n%s", out)
		}
		t.Logf("redis-benchmark -P %s through a recorder: %s", pipeline, strings.TrimSpace(out[strings.LastIndexByte(strings.TrimSpace(out), '\r')+1:]))
	}
	t.Logf("redis-benchmark sent: %s", strings.Join(r.commands(t), ", "))
}

// TestPeerGoRedis uses go-redis with both protocols, its defaults otherwise.
func TestPeerGoRedis(t *testing.T) {
	ctx := bounded(t, 60*time.Second)
	for _, protocol := range []int{2, 3} {
		_, r := moving(ctx, t)
		db := redis.NewClient(&redis.Options{Addr: r.ln.Addr().String(), Protocol: protocol})
		if err := db.Do(ctx, "SCOPE", "DECLARE", "app:", "WRITER", "a").Err(); err != nil {
			t.Fatal(err)
		}
		err := db.Do(ctx, "SCOPE", "ROUTE", "app:1", "AS", "b").Err()
		if err == nil || err.Error() != "MISDIRECTED writer is 10.0.0.1:6004" {
			t.Errorf("RESP%d: %v", protocol, err)
		}
		sub := db.Subscribe(ctx, "scope.events")
		if _, err := sub.Receive(ctx); err != nil {
			t.Fatal(err)
		}
		if err := db.Do(ctx, "SCOPE", "RETIRE", "app:", "SOURCE-FENCED", "a").Err(); err != nil {
			t.Fatal(err)
		}
		m, err := sub.ReceiveMessage(ctx)
		if err != nil || !strings.Contains(m.Payload, `"retire"`) {
			t.Errorf("RESP%d: message %v, %v", protocol, m, err)
		}
		if err := errors.Join(sub.Close(), db.Close()); err != nil {
			t.Error(err)
		}
		t.Logf("go-redis, RESP%d, sent: %s", protocol, strings.Join(r.commands(t), ", "))
	}
}

const pythonScript = `
import sys
try:
    import redis
except ImportError:
    sys.exit("the module redis is missing; on Debian: apt-get install python3-redis")
db = redis.Redis(port=int(sys.argv[1]), decode_responses=True)
assert db.ping()
assert db.execute_command("SCOPE", "DECLARE", "app:", "WRITER", "a") in ("OK", True)
try:
    db.execute_command("SCOPE", "ROUTE", "app:1", "AS", "b")
except redis.exceptions.ResponseError as e:
    print(e)
sub = db.pubsub()
sub.subscribe("scope.events")
assert sub.get_message(timeout=5)["type"] == "subscribe"
with db.pipeline(transaction=False) as p:
    p.execute_command("SCOPE", "ROUTE", "app:1", "AS", "a")
    p.execute_command("SCOPE", "RETIRE", "app:", "SOURCE-FENCED", "a")
    print(p.execute())
print(sub.get_message(timeout=5)["data"])
print(db.info("server")["redis_version"])
print(redis.__version__)
`

// TestPeerPythonRedis uses Debian's python3-redis.
func TestPeerPythonRedis(t *testing.T) {
	ctx := bounded(t, 60*time.Second)
	_, r := moving(ctx, t)
	out := string(program(ctx, t, []byte(pythonScript), "/usr/bin/python3", "-", r.port()))
	for _, want := range []string{"MISDIRECTED writer is 10.0.0.1:6004", "OWNED", `"retire"`} {
		if !strings.Contains(out, want) {
			t.Errorf("python3-redis printed\n%s\nwithout %q", out, want)
		}
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	t.Logf("python3-redis %s sent: %s", lines[len(lines)-1], strings.Join(r.commands(t), ", "))
}
