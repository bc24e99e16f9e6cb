package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/pflag"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/freeport"
	"github.com/scope-registry/scope-registry/internal/registry"
)

// update makes TestScripts write what the program prints into the scripts.
var update = flag.Bool("update", false, "rewrite the goldens of testdata/*.txtar")

// patience bounds every wait of a script: a start of three servers on a machine that is busy with other tests.
const patience = 30 * time.Second

// TestMain lets the test binary be the program: the scripts run it as a process, with an environment, a folder and an
// exit code of its own. They wait more than they work, so that more of them run at once than there are processors.
func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", "4"); err != nil { // a flag of the command line comes after this
		panic(err)
	}
	testscript.Main(m, map[string]func(){"scope-registry": main})
}

// TestScripts runs testdata/*.txtar. Besides testscript's own commands, a script has
//
//	server                  start one server, and ask it from now on
//	cluster [N]             start three, s1 to s3; $PEERS is their list; with a snapshot every N entries
//	free                    set FREE to an address that is free
//	down ID                 end one of these, and wait until the others have settled
//	up ID                   start it again on its data directory
//	changes N               make N changes, one log entry each
//	copydir FROM TO         copy a data directory
//	cut FILE PAGES          leave so many pages of memory of a file
//	spoil DIR N             change a byte in each of the N newest snapshots of a data directory
//	edit FILE OLD NEW       change all places where OLD stands in a file
//	session NODE            open a session for a node and keep renewing it; $NODE is its id, as in $S_a
//	say NODE VERB MOVE [KEYS BYTES [KEYS_LEFT BYTES_LEFT]]  a word of that session: report, shipped, ready, abort or cleaned
//	expire NODE             end the process of that session without a word, and wait until the leader has ended the session
//	settle                  wait until the servers agree on a leader
//	bearer FILE             show the token in the file with all that is asked from now on
//	pretend CODE            ask a server from now on that answers everything with this error
//	exits N scope-registry …  run the program, which must exit with N
//	start NAME scope-registry …  run it in the background
//	until NAME REGEXP       wait until it has printed that
//	interrupt NAME          as Ctrl-C does
//	ended NAME N            wait for its end; it must exit with N
//	capture VAR REGEXP      set VAR to what the group matches in what was printed last
//	fields NAME …           check that these fields, like members.id, are in all JSON printed last
//
// All that was run and printed stands in the file transcript, without what differs from run to run. A script ends with
// "cmp transcript golden".
func TestScripts(t *testing.T) {
	dir, err := filepath.Abs("../../examples")
	if err != nil {
		t.Fatal(err)
	}
	cmds := map[string]func(*bench, *testscript.TestScript, []string){
		"server": (*bench).startOne, "cluster": (*bench).startThree, "down": (*bench).down, "up": (*bench).up, "changes": (*bench).changes, "copydir": (*bench).copydir, "edit": (*bench).edit, "cut": (*bench).cut, "spoil": (*bench).spoil, "settle": (*bench).settle, "pretend": (*bench).pretend, "bearer": (*bench).bearer,
		"session": (*bench).session, "free": (*bench).free, "say": (*bench).say, "expire": (*bench).expire,
		"exits": (*bench).exits, "start": (*bench).start, "until": (*bench).until, "interrupt": (*bench).interrupt,
		"ended": (*bench).ended, "capture": (*bench).capture, "fields": (*bench).fields,
	}
	p := testscript.Params{Dir: "testdata", WorkdirRoot: t.TempDir(), UpdateScripts: *update, RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("EXAMPLES", dir)
			if env.Getenv("GORACE") == "" {
				env.Setenv("GORACE", "atexit_sleep_ms=0") // else every process of a race build sleeps for a second at its end
			}
			b := &bench{dir: env.WorkDir, examples: dir, vars: env.Vars, servers: map[string]*server{}, cfgs: map[string]serverConfig{}, procs: map[string]*process{}}
			env.Values[benchKey{}] = b
			env.Defer(b.close)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){}}
	for name, run := range cmds {
		p.Cmds[name] = func(ts *testscript.TestScript, neg bool, args []string) {
			if neg {
				ts.Fatalf("%s cannot be negated", name)
			}
			run(ts.Value(benchKey{}).(*bench), ts, args)
		}
	}
	testscript.Run(t, p)
}

type benchKey struct{}

// bench is what one script has started and seen. Only the script's goroutine uses it.
type bench struct {
	dir        string
	examples   string
	vars       []string // environment at the start
	servers    map[string]*server
	cfgs       map[string]serverConfig // of all that were started, by id
	size       int                     // of the cluster
	procs      map[string]*process
	fakes      []*httptest.Server
	nodes      nodes
	transcript strings.Builder
}

// close ends what the script left running, and waits for it.
func (b *bench) close() {
	b.nodes.close()
	for _, p := range b.procs {
		_ = p.cmd.Process.Signal(os.Interrupt) // it may have ended; killed, it would leave what it started itself
		select {
		case <-p.done:
		case <-time.After(patience):
			_ = p.cmd.Process.Kill()
			<-p.done
		}
	}
	closeAll(slices.Collect(maps.Values(b.servers)))
	for _, f := range b.fakes {
		f.Close()
	}
}

func (b *bench) startOne(ts *testscript.TestScript, _ []string) {
	// Nobody dials the one server's address in the list, so that any port will do to listen on.
	b.run(ts, []serverConfig{{HTTPListen: "127.0.0.1:0", Config: registry.Config{ID: "s1", DataDir: filepath.Join(b.dir, ".data", "s1"),
		Peers: []registry.Peer{{ID: "s1", Addr: "127.0.0.1:7482"}}, PeerListen: "127.0.0.1:0", Timing: "fast", Logger: hclog.NewNullLogger()}}})
}

func (b *bench) startThree(ts *testscript.TestScript, args []string) {
	every := 0
	if len(args) > 0 {
		var err error
		every, err = strconv.Atoi(args[0])
		ts.Check(err)
	}
	cfgs, err := devConfigs(filepath.Join(b.dir, ".data"), true, hclog.NewNullLogger())
	ts.Check(err)
	for i := range cfgs {
		cfgs[i].Timing = "default" // a machine that is busy with other tests must not look like a leader that is gone
		cfgs[i].SnapshotThreshold = uint64(every)
	}
	b.run(ts, cfgs)
}

func (b *bench) run(ts *testscript.TestScript, cfgs []serverConfig) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	started, err := startAll(ctx, cfgs)
	ts.Check(err)
	b.size = len(started)
	endpoints := make([]string, 0, b.size)
	for i, s := range started {
		b.servers[cfgs[i].ID], b.cfgs[cfgs[i].ID] = s, cfgs[i]
		endpoints = append(endpoints, "http://"+s.http)
		ts.Setenv(strings.ToUpper(cfgs[i].ID), "http://"+s.http)
	}
	ts.Setenv(envEndpoints, strings.Join(endpoints, ","))
	var peers []string
	for _, p := range cfgs[0].Peers {
		peers = append(peers, p.ID+"="+p.Addr)
	}
	ts.Setenv("PEERS", strings.Join(peers, ","))
}

// free sets FREE to an address that nobody listened on a moment ago.
func (b *bench) free(ts *testscript.TestScript, _ []string) {
	addrs, err := freeport.Addrs(1)
	ts.Check(err)
	ts.Setenv("FREE", addrs[0])
}

func (b *bench) down(ts *testscript.TestScript, args []string) {
	if len(args) != 1 || b.servers[args[0]] == nil {
		ts.Fatalf("usage: down ID, of a server that runs")
	}
	err := b.servers[args[0]].Close()
	delete(b.servers, args[0])
	ts.Check(err)
	b.settle(ts, nil)
}

// settle waits until the servers that run are ready and know the same leader, or none if they are no majority.
func (b *bench) settle(ts *testscript.TestScript, _ []string) {
	majority := 2*len(b.servers) > b.size
	settled := func() bool {
		leaders := map[string]bool{}
		for _, s := range b.servers {
			id, _, known := s.reg.Leader()
			if known != majority || majority && (b.servers[id] == nil || s.reg.Ready() != nil) {
				return false
			}
			leaders[id] = true
		}
		return !majority || len(leaders) == 1
	}
	t := time.NewTicker(readyEvery)
	defer t.Stop()
	late := time.After(patience)
	// No leader is known for a moment also in the middle of an election, which a vote given before may still win.
	looks := 1
	if !majority {
		looks = 20
	}
	for seen := 0; seen < looks; {
		if seen++; !settled() {
			seen = 0
		}
		select {
		case <-late:
			for id, s := range b.servers {
				leader, _, known := s.reg.Leader()
				ts.Logf("%s: leader %q, known %v, ready: %v", id, leader, known, s.reg.Ready())
			}
			ts.Fatalf("the servers have not settled within %v", patience)
		case <-t.C:
		}
	}
}

func (b *bench) pretend(ts *testscript.TestScript, args []string) {
	if len(args) != 1 || !api.Code(args[0]).Known() {
		ts.Fatalf("usage: pretend CODE")
	}
	e := api.Error{Code: api.Code(args[0]), Detail: "as this server pretends"}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(api.HeaderIndex, "7")
		if r.Method == http.MethodGet && r.URL.RequestURI() == "/v1/moves?limit=1" { // asked for the index, before a change
			return
		}
		w.WriteHeader(e.Code.HTTPStatus())
		_ = json.NewEncoder(w).Encode(e) // the client may be gone
	}))
	b.fakes = append(b.fakes, s)
	ts.Setenv(envEndpoints, s.URL)
}

// bearer puts a proxy before the first of the servers, which shows the token.
func (b *bench) bearer(ts *testscript.TestScript, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: bearer FILE")
	}
	to, err := url.Parse(ts.Getenv("S1"))
	ts.Check(err)
	token := strings.TrimSpace(ts.ReadFile(args[0]))
	s := httptest.NewServer(&httputil.ReverseProxy{FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Header.Set("Authorization", "Bearer "+token)
	}})
	b.fakes = append(b.fakes, s)
	ts.Setenv(envEndpoints, s.URL)
}

func (b *bench) exits(ts *testscript.TestScript, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: exits N program [args...]")
	}
	err := ts.Exec(args[1], args[2:]...)
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		ts.Fatalf("%v", err)
	}
	b.check(ts, args[0], failed, args[1:], ts.ReadFile("stdout"), ts.ReadFile("stderr"))
}

// check compares the exit code with want, looks whether the output has the form it must have, and writes the
// transcript. failed is nil after success.
func (b *bench) check(ts *testscript.TestScript, want string, failed *exec.ExitError, args []string, stdout, stderr string) {
	code := 0
	if failed != nil {
		code = failed.ExitCode()
	}
	if strconv.Itoa(code) != want {
		ts.Fatalf("exit %d, want %s", code, want)
	}
	format := formatOf(args)
	if code != 0 {
		checkError(ts, code, format, stderr)
	} else if err := checkJSON(format, stdout); err != nil {
		ts.Fatalf("stdout is not what -o %s promises: %v", format, err)
	}
	var shown strings.Builder
	fmt.Fprintf(&shown, "$ %s\n%s", quoted(args), stdout)
	if stdout != "" && !strings.HasSuffix(stdout, "\n") {
		shown.WriteString("\n(no newline)\n")
	}
	for line := range strings.Lines(stderr) {
		fmt.Fprintf(&shown, "2> %s", line)
	}
	if code != 0 {
		fmt.Fprintf(&shown, "exit %d\n", code)
	}
	b.transcript.WriteString(b.normal(shown.String()) + "\n")
	ts.Check(os.WriteFile(filepath.Join(b.dir, "transcript"), []byte(strings.TrimSuffix(b.transcript.String(), "\n")), 0o600))
}

// formatOf is the value of -o in args, as the program's own parser sees it.
func formatOf(args []string) string {
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	fs.ParseErrorsAllowlist.UnknownFlags = true
	fs.Usage = func() {}
	format := fs.StringP("output", "o", "table", "")
	_ = fs.Parse(args) // the program itself says what is wrong with them
	if *format == "json" && slices.Contains(args, "watch") {
		return "jsonl" // a stream has no other form
	}
	return *format
}

// checkError wants an error's code on stderr, in the format that was asked for, to be one of the exit code.
func checkError(ts *testscript.TestScript, code int, format, stderr string) {
	var found api.Code
	if format == "json" || format == "jsonl" {
		lines := strings.Split(strings.TrimSpace(stderr), "\n")
		var e struct {
			Code            api.Code
			Detail, Outcome string
			Status          int
		}
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &e); err != nil {
			ts.Fatalf("the error is not JSON: %v", err)
		}
		if e.Detail == "" || e.Status != e.Code.HTTPStatus() || e.Outcome != string(e.Code.Outcome()) {
			ts.Fatalf("the error has fields that are missing or wrong: %+v", e)
		}
		found = e.Code
	} else if m := regexp.MustCompile(`(?m)^scope-registry: ([A-Z_]+): \S`).FindStringSubmatch(stderr); m != nil {
		found = api.Code(m[1])
	}
	if !found.Known() || found.ExitCode() != code {
		ts.Fatalf("exit %d, and the error is %q", code, found)
	}
}

// checkJSON wants one JSON value of json, and an object on each line of jsonl.
func checkJSON(format, stdout string) error {
	switch format {
	case "json":
		var v any
		return json.Unmarshal([]byte(stdout), &v)
	case "jsonl":
		for line := range strings.Lines(stdout) {
			var v map[string]any
			if err := json.Unmarshal([]byte(line), &v); err != nil {
				return err
			}
		}
	}
	return nil
}

// quoted is a command line as a shell takes it.
func quoted(args []string) string {
	out := make([]string, 0, len(args))
	for _, a := range args {
		if a == "" || strings.ContainsAny(a, ` '"\$|;<>*#`) {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		out = append(out, a)
	}
	return strings.Join(out, " ")
}

// varying is what differs from run to run, and what stands for it in a transcript.
var varying = []struct {
	what *regexp.Regexp
	to   string
}{
	{regexp.MustCompile(`(?m)^(2> \S+ \[[A-Z]+\] |closed for |\{"type":"heartbeat").*\n`), ""}, // logs; no line at 0 ms; one a second
	{regexp.MustCompile(`127\.0\.0\.1:[0-9]{5}`), "127.0.0.1:PORT"},
	{regexp.MustCompile(`[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z`), "TIME"},
	{regexp.MustCompile(`( left)(?:; [0-9.]+ [KMG]?i?B/s)?(?:; about [0-9hms]+ to go)? \(reported [0-9hms.]+ ago\)`), "$1 (reported SPAN ago)"},
	{regexp.MustCompile(`("(?:bytes_per_second|left_ms|age_ms|view_index|opened_index)": ?)-?[0-9]+`), "${1}N"},
	{regexp.MustCompile(`("incarnation_tag": ?)"[A-Z2-7]{26}"`), `${1}"TAG"`},
	{regexp.MustCompile(`(, term )[0-9]+( \(its snapshot at )[0-9]+`), "${1}N${2}N"},
	{regexp.MustCompile(`(opened at index |view at )[0-9]+`), "${1}N"},
	{regexp.MustCompile(`(?m)^([a-z]+ +\S+:[0-9]+ +(?:live|blind)) +[0-9]+ +[0-9.]+s$`), "$1  N  SPAN"},
	{regexp.MustCompile(`(?m)^([a-z]+ +[0-9a-z-]+) +[0-9]+ +[0-9]+ +(live|blind) +[0-9.]+s$`), "$1  N  N  $2  SPAN"},
	{regexp.MustCompile(`(?m)^(lease +)[0-9.]+s$`), "${1}SPAN"},
	{regexp.MustCompile(`[0-9hms.]+ ago \(|in [0-9hms.]+ \(|due now \(`), "SPAN ("},
	{regexp.MustCompile(`(?m)^(2> \S+ [a-z]+) for [0-9hms]+(, [0-9hms]+ left)?: .*`), "$1"}, // how often it looks at the move
	{regexp.MustCompile(`\bsrt_([a-z0-9-]+)_[0-9a-f]{64}\b`), "srt_${1}_SECRET"},
	{regexp.MustCompile(`("(?:since|at|time|quiesced|created|expires)_ms": ?)[0-9]+`), "${1}MS"},
	{regexp.MustCompile(`([Ii]ndex"?[:= ] *|"floor": ?|"term": ?|--from )[0-9]+`), "${1}N"},
	{regexp.MustCompile(`(?m)^[0-9]+  +`), "N  "},
	{regexp.MustCompile(`(?m)^(s[0-9]) +(?:leader|follower|candidate) +[0-9]+ +[0-9]+ +[0-9]+ `), "$1  ROLE  N  N  N  "},
	{regexp.MustCompile(`(?m)^2> server s[0-9] at \S+ is joining since .*\n`), ""}, // how often it looks
	{regexp.MustCompile(`((?:says|said) server ")s[0-9]`), "${1}ONE"},
	{regexp.MustCompile(`("(?:log_index|behind|since)": ?)[0-9]+`), "${1}N"},
	{regexp.MustCompile(`("role": ?")(?:leader|follower|candidate)|(leader |"leader": ?")s[0-9]`), "${1}${2}ROLE"},
	{regexp.MustCompile(`\bmv-[0-9a-f]{16}\b`), "mv-ID"},
	{regexp.MustCompile(`\b[0-9]+-[0-9a-f]{32}\b`), "REQUEST"},
	{regexp.MustCompile(`\b([0-9a-f]{32}|[0-9a-f]{64})\b`), "HASH"},
	{regexp.MustCompile(`(CRC32C stored )[0-9a-f]{8}(, computed )[0-9a-f]{8}`), "${1}N${2}N"},
	{regexp.MustCompile(`\b[0-9a-f]{16}( (?:meta|state)\.)`), "SUM$1"},
	{regexp.MustCompile(`snapshots/[0-9]+-[0-9]+-[0-9]{13}`), "snapshots/ID"},
	{regexp.MustCompile(`(that is found ends at |raft\.journal is entry |at page |has entries |the log ends at )[0-9]+(?:( to )[0-9]+)?`), "${1}N${2}"},
	{regexp.MustCompile(`\bgo1\.[0-9.]+`), "GO"},
	{regexp.MustCompile(`(?m)(^bytes +)[0-9]+`), "${1}N"}, // of a backup, as in the next
	{regexp.MustCompile(`("disk_free_bytes": ?)[0-9]+`), "${1}N"},
	{regexp.MustCompile(`("bytes": ?)[0-9]+(,\s*"sha256")`), "${1}N$2"},
	{regexp.MustCompile(`(corrupt at byte |\.backup\.|its log went up to )[0-9]+`), "${1}N"},
	{regexp.MustCompile(`it ends after [0-9]+ of [0-9]+`), "it ends after N of N"},
	{regexp.MustCompile(`(does not answer s[0-9]): .*`), "$1: WHY"},
	// The operating system's words, and which try was the last.
	{regexp.MustCompile(`("detail":"[^\n]*?(?:cannot be reached|did not answer|cannot be listened on|listening for other servers on \S+)): (?:\\"|[^";)])*`), "$1: WHY"},
	{regexp.MustCompile(`(?m)^(2> scope.*(?:cannot be reached|did not answer|cannot be listened on|listening for other servers on \S+)): [^;)\n]*`), "$1: WHY"},
}

// normal is text without what differs from run to run. Where it differed, columns are no longer aligned and are
// separated by two spaces.
func (b *bench) normal(text string) string {
	out := strings.NewReplacer(b.dir, "$WORK", b.examples, "$EXAMPLES").Replace(text)
	for _, v := range varying {
		out = v.what.ReplaceAllString(out, v.to)
	}
	if out != text {
		out = regexp.MustCompile(`(\S)   +`).ReplaceAllString(out, "$1  ")
	}
	return regexp.MustCompile(`(?m) +$`).ReplaceAllString(out, "")
}

func (b *bench) capture(ts *testscript.TestScript, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: capture VAR REGEXP")
	}
	m := regexp.MustCompile(args[1]).FindStringSubmatch(ts.ReadFile("stdout") + ts.ReadFile("stderr"))
	if len(m) != 2 {
		ts.Fatalf("%s with one group matches nothing", args[1])
	}
	ts.Setenv(args[0], m[1])
}

func (b *bench) fields(ts *testscript.TestScript, args []string) {
	dec, n := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout"))), 0
	for {
		var v any
		err := dec.Decode(&v)
		if errors.Is(err, io.EOF) {
			break
		}
		ts.Check(err)
		n++
		for _, name := range args {
			if !has(v, strings.Split(name, ".")) {
				ts.Fatalf("field %s is not there", name)
			}
		}
	}
	if n == 0 || len(args) == 0 {
		ts.Fatalf("usage: fields NAME [NAME...], after JSON was printed")
	}
}

// has reports whether v has the field at the path; where an array is on the way, every element must have it.
func has(v any, path []string) bool {
	switch v := v.(type) {
	case []any:
		return len(v) > 0 && !slices.ContainsFunc(v, func(e any) bool { return !has(e, path) })
	case map[string]any:
		field, ok := v[path[0]]
		return ok && (len(path) == 1 || has(field, path[1:]))
	}
	return false
}
