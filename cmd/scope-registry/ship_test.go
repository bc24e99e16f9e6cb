package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
)

// hang is a shell command that ends only when it is made to.
const hang = "tail -f /dev/null"

// talk is a standard error that a test reads while the command runs.
type talk struct {
	mu   sync.Mutex // guards text and wake
	text bytes.Buffer
	wake chan struct{}
}

func newTalk() *talk { return &talk{wake: make(chan struct{})} }

func (k *talk) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	close(k.wake)
	k.wake = make(chan struct{})
	return k.text.Write(p)
}

// until waits for a match and returns its last group.
func (k *talk) until(t *testing.T, pattern string) string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for {
		k.mu.Lock()
		found, wake := re.FindStringSubmatch(k.text.String()), k.wake
		k.mu.Unlock()
		if found != nil {
			return found[len(found)-1]
		}
		select {
		case <-wake:
		case <-t.Context().Done():
			t.Fatalf("never said %s:\n%s", pattern, k.text.String())
		}
	}
}

// take returns what was said since the last time.
func (k *talk) take() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	defer k.text.Reset()
	return k.text.String()
}

func (k *talk) String() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.text.String()
}

// running is a command line that runs.
type running struct {
	stdout, stderr *talk
	code           chan int
	cancel         context.CancelFunc
}

func launch(t *testing.T, at string, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{stdout: newTalk(), stderr: newTalk(), code: make(chan int, 1), cancel: cancel}
	go func() {
		r.code <- run(ctx, append(args, "--endpoints", at), strings.NewReader(""), r.stdout, r.stderr)
	}()
	t.Cleanup(cancel)
	return r
}

// end waits for the end and checks it. want are patterns over standard error.
func (r *running) end(t *testing.T, code int, want ...string) {
	t.Helper()
	if got := <-r.code; got != code {
		t.Errorf("exit %d, want %d", got, code)
	}
	for _, w := range want {
		if !regexp.MustCompile(w).MatchString(r.stderr.String()) {
			t.Errorf("want %s", w)
		}
	}
	if t.Failed() {
		t.Fatalf("stdout:\n%sstderr:\n%s", r.stdout, r.stderr)
	}
}

// moving is a server with a scope app: on a, and b to move it to.
func moving(t *testing.T) string {
	t.Helper()
	at := endpoint(t)
	runLines(t, at, []line{{"node set a h:1", 0, ""}, {"node set b h:2", 0, ""}, {"scope declare app: --writer a", 0, ""}})
	return at
}

func launchMove(t *testing.T, at, command string, more ...string) *running {
	t.Helper()
	return launch(t, at, append([]string{"move", "run", "app:", "--from", "a", "--to", "b", "--id", "m1", "--exec", command}, more...)...)
}

// leash is a pipe that a shell command holds with all it starts: hold makes it
// take its end. gone waits until all of them are gone.
func leash(t *testing.T) (hold string, gone func()) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "leash")
	if err := syscall.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	eof := make(chan error, 1)
	go func() {
		_, err := os.ReadFile(name) // opens when the command does
		eof <- err
	}()
	return "exec 3>" + name + "; echo held >&2; ", func() {
		if err := <-eof; err != nil {
			t.Error(err)
		}
	}
}

func TestMoveRun(t *testing.T) {
	at := moving(t)
	r := launchMove(t, at, `echo "$SCOPE_PREFIX $SCOPE_MOVE_ID $SCOPE_FROM $SCOPE_FROM_ADDR $SCOPE_TO $SCOPE_TO_ADDR $SCOPE_PHASE"
		echo '{"level":"info"}'; echo to-stderr >&2; echo '{"keys":2,"bytes":9,"digest":"d"}'; echo`, "--precopy", "--reason", "why not")
	r.end(t, 0, `(?m)^app: m1 a h:1 b h:2 copying$`, `(?m)^app: m1 a h:1 b h:2 quiescing$`, `(?m)^to-stderr$`, `(?m)^\{"level":"info"\}$`,
		`m1 copying for .* left: the ship command runs`, `(?m)^m1 quiescing for`, `(?m)^m1 shipped for .* saying ready`, `(?m)^m1 done$`)
	if n := strings.Count(r.stderr.String(), `"keys"`); n != 0 {
		t.Errorf("the manifest was passed on %d times", n)
	}
	for _, want := range []string{"phase +done", "new epoch +2", "shipped +2 keys, 9 bytes, digest d", "ready +2 keys", "reason +why not", "cleanup +pending"} {
		if !regexp.MustCompile(want).MatchString(r.stdout.String()) {
			t.Errorf("want %s in\n%s", want, r.stdout.String())
		}
	}
	runLines(t, at, []line{{"route app:1 --as b", 0, "OK"}, {"move cleaned m1 --reason gone", 0, ""}})
	launch(t, at, "move", "run", "app:", "--from", "b", "--to", "a", "--exec", "true", "--quiet", "--id", "m2").end(t, 0, "^$")
	runLines(t, at, []line{{"move cleaned m2 --reason gone", 0, ""}})
	r = launchMove(t, at, `echo '{"keys":7,"bytes":7}'; echo not the last`, "--id", "m3")
	r.end(t, 0, `(?m)^\{"keys":7,"bytes":7\}\nnot the last$`)
	if !strings.Contains(r.stdout.String(), "no manifest") {
		t.Errorf("took a line for the manifest that was not the last\n%s", r.stdout)
	}
	runLines(t, at, []line{{"move cleaned m3 --reason gone", 0, ""}})
	launch(t, at, "move", "run", "app:", "--from", "a", "--to", "b", "--exec", "true").end(t, 4, "NOT_OWNER")
	launch(t, at, "move", "run", "app:", "--from", "b", "--to", "c", "--exec", "true").end(t, 4, `NODE_UNKNOWN.*"c"`)
	launch(t, at, "move", "run", "app:", "--from", "a", "--to", "b", "--exec", " ").end(t, 2, "--exec is empty")
}

func TestMoveRunFails(t *testing.T) {
	at := moving(t)
	for command, want := range map[string]string{
		"exit 3":                               "ended with exit status 3",
		"kill -9 $$":                           "ended with signal: killed",
		"no-such-tool-x":                       "ended with exit status 127",
		"x\x00":                                "did not start",
		`echo '{"keys":1,"bytes":2}'; exit 1`:  "ended with exit status 1",
		`echo '{"keys":1}'`:                    "looks like a manifest and is none .keys and bytes",
		`echo '{"keys":1,"bytes":2} and more'`: "looks like a manifest and is none .more follows",
		`echo '{"keys":-1,"bytes":2}'`:         "looks like a manifest and is none",
		`echo '{"keys":1,"bytes":2,"sum":3}'`:  "looks like a manifest and is none .*sum",
		`printf '{"keys":1,"by'`:               "looks like a manifest and is none",
		`echo '{'; head -c 100000 /dev/zero | tr '\0' '{'`:    "looks like a manifest and is none",
		`printf '{"keys":1,"bytes":1,"digest":"%0200d"}\n' 1`: "digest has 200 bytes",
		// Reasons that are cut off, within a character in one of the two, and one of bytes that are none.
		"echo '{\"" + strings.Repeat("é", 2000) + "\":1}'":                  "looks like a manifest and is none",
		"echo '{\"x" + strings.Repeat("é", 2000) + "\":1}'":                 "looks like a manifest and is none",
		`printf '{"'; head -c 3000 /dev/zero | tr '\0' '\377'; echo '":1}'`: "looks like a manifest and is none",
	} {
		r := launch(t, at, "move", "run", "app:", "--from", "a", "--to", "b", "--exec", command)
		r.end(t, 4, `WRONG_PHASE: move mv-[0-9a-f]{16} was aborted \(operator: (?s).*`+want+`.*\); a still owns app: and takes its writes`)
		if !regexp.MustCompile(`phase +aborted`).MatchString(r.stdout.String()) {
			t.Errorf("%s: stdout\n%s", command, r.stdout.String())
		}
		runLines(t, at, []line{{"route app:1 --as a", 0, "OK"}})
	}
}

func TestMoveRunIsStopped(t *testing.T) {
	for name, c := range map[string]struct {
		stop func(t *testing.T, at string, r *running)
		want string
	}{
		"interrupted": {func(_ *testing.T, _ string, r *running) { r.cancel() }, `was aborted \(operator: move run was interrupted\)`},
		"lost terminal": {func(t *testing.T, _ string, r *running) {
			if signal.Ignored(syscall.SIGHUP) { // under nohup there is no terminal to lose
				r.cancel()
			} else if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
				t.Error(err)
			}
		}, `was aborted \(operator: move run was interrupted\)`},
		"aborted by another": {func(t *testing.T, at string, _ *running) {
			runLines(t, at, []line{{"move abort m1 --reason enough", 0, ""}})
		}, `the move ended meanwhile; move m1 was aborted \(operator: enough\); a still owns app:`},
		"forced by another": {func(t *testing.T, at string, _ *running) {
			runLines(t, at, []line{{"scope force app: --to b --epoch 1 --accept-loss --source-fenced a", 0, ""}})
		}, `the move ended meanwhile; move m1 was aborted \(forced\); a does not own app: any more`},
		"ended by another": {func(t *testing.T, at string, _ *running) {
			runLines(t, at, []line{{"move shipped m1", 0, ""}, {"move ready m1", 0, ""}})
		}, `move m1 is done, somebody else ended it: b owns app: now`},
	} {
		t.Run(name, func(t *testing.T) {
			at := moving(t)
			hold, gone := leash(t)
			r := launchMove(t, at, hold+hang)
			r.stderr.until(t, "held")
			c.stop(t, at, r)
			r.end(t, 4, c.want)
			gone()
		})
	}
	t.Run("window", func(t *testing.T) { // it may end before the command has begun
		launchMove(t, moving(t), hang, "--window", "100ms").end(t, 4, `the move ended meanwhile; move m1 was aborted \(window`)
	})
}

// between is a proxy before a server. answer may answer in its place.
func between(t *testing.T, at string, answer func(w http.ResponseWriter, r *http.Request, server http.Handler)) string {
	t.Helper()
	target, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r, proxy) }))
	t.Cleanup(s.Close)
	return s.URL
}

// refuse answers as a server that cannot change anything, so that the client
// does not try a change again.
func refuse(w http.ResponseWriter) {
	w.WriteHeader(api.Stale.HTTPStatus())
	_, _ = io.WriteString(w, `{"code":"STALE","detail":"no leader is heard"}`)
}

func TestMoveRunCannotAbort(t *testing.T) {
	for name, c := range map[string]struct {
		flags []string
		want  string
	}{
		"closed":  {nil, `STALE: the ship command ended with exit status 3; and move m1 could not be aborted .*: app: stays closed until the leader ends the move`},
		"copying": {[]string{"--precopy"}, `STALE: .*: a goes on accepting writes to app:`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := moving(t)
			var started atomic.Bool
			proxy := between(t, at, func(w http.ResponseWriter, r *http.Request, server http.Handler) {
				if started.Load() {
					refuse(w)
					return
				}
				server.ServeHTTP(w, r)
				if strings.HasSuffix(r.URL.Path, "/nodes/b") { // the last thing before the command
					started.Store(true)
				}
			})
			launchMove(t, proxy, "exit 3", append(c.flags, "--timeout", "1500ms")...).end(t, 5, c.want)
		})
	}
}

func TestMoveRunReadyUnknown(t *testing.T) {
	for name, c := range map[string]struct {
		applied bool
		exit    int
		want    string
		phase   string
	}{
		"not known":   {false, 8, `OUTCOME_UNKNOWN: .*Look at: move status m1; if it is done, b owns app:`, "shipped"},
		"found done":  {true, 0, ``, "done"},
		"not applied": {false, 4, `was aborted \(operator: STALE`, "aborted"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := moving(t)
			proxy := between(t, at, func(w http.ResponseWriter, r *http.Request, server http.Handler) {
				if !strings.HasSuffix(r.URL.Path, "/ready") {
					server.ServeHTTP(w, r)
					return
				}
				if c.phase == "aborted" {
					refuse(w)
					return
				}
				if c.applied {
					server.ServeHTTP(httptest.NewRecorder(), r)
				}
				panic(http.ErrAbortHandler) // the connection breaks
			})
			launchMove(t, proxy, "true", "--timeout", "1500ms").end(t, c.exit, c.want)
			m, err := client.New([]string{at}).Move(t.Context(), "m1", 0)
			if err != nil || m.Phase != c.phase {
				t.Errorf("the move is %s, want %s (%v)", m.Phase, c.phase, err)
			}
		})
	}
}

func TestShipCommandLeavesNothing(t *testing.T) {
	const short = 50 * time.Millisecond
	for name, c := range map[string]struct {
		command string
		stop    bool
		want    string
	}{
		"deaf to SIGTERM":    {`trap "" TERM; ` + hang, true, "stopped"},
		"a deaf child":       {`(trap "" TERM; ` + hang + `) & wait`, true, "stopped"},
		"left with output":   {`` + hang + ` &`, false, "left behind"},
		"failed with a rest": {`` + hang + ` >/dev/null 2>&1 & exit 1`, false, "exit status 1"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			out := newTalk()
			done := make(chan error, 1)
			hold, gone := leash(t)
			go func() {
				_, err := shipCommand{text: hold + c.command, stderr: out, grace: short}.run(ctx, "quiescing")
				done <- err
			}()
			out.until(t, "held")
			if c.stop {
				cancel(errors.New("stopped"))
			}
			if err := <-done; err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %s", err, c.want)
			}
			gone()
		})
	}
}

// A process that stays in the background on purpose, with only standard error
// open, is not waited for and not killed.
func TestShipCommandKeepsAConnection(t *testing.T) {
	out := newTalk()
	hold, gone := leash(t)
	m, err := shipCommand{text: hold + `echo pid $$ >&2; ` + hang + ` >/dev/null & echo '{"keys":0,"bytes":0}'`, stderr: out, grace: time.Minute}.run(t.Context(), "quiescing")
	if err != nil || m == nil || m.Keys != 0 {
		t.Errorf("%v, %v", m, err)
	}
	var group int
	if _, err := fmt.Sscan(out.until(t, `pid (\d+)\n`), &group); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(-group, syscall.SIGKILL); err != nil {
		t.Errorf("it is not there any more: %v", err)
	}
	gone()
}

func TestShipCommandWritesToAFile(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/err")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := (shipCommand{text: "echo one; echo two >&2", stderr: f, grace: time.Minute}).run(t.Context(), "quiescing"); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(f.Name())
	if err != nil || !strings.Contains(string(data), "one\n") || !strings.Contains(string(data), "two\n") {
		t.Errorf("%q, %v", data, err)
	}
}
