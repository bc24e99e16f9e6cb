package peer

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"
)

// guarded is a guard over memory, of a server "s1" in term 5 that follows "l".
type guarded struct {
	*Guard
	others    *raft.InmemTransport // of server "s2"
	confirmed atomic.Int64         // how often the leader was asked
	word      chan bool            // what it says
	leader    atomic.Pointer[[2]string]
}

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	_, inner := raft.NewInmemTransport("s1:1")
	_, others := raft.NewInmemTransport("s2:1")
	others.Connect("s1:1", inner)
	inner.Connect("s2:1", others)
	g := &guarded{Guard: NewGuard(inner, nil), others: others, word: make(chan bool, 1)}
	g.leader.Store(&[2]string{"l:1", "l"})
	g.Start(Facts{
		Self: "s1", Term: func() uint64 { return 5 },
		Leader: func() (string, string) { l := g.leader.Load(); return l[0], l[1] },
		Confirm: func(ctx context.Context, leader, candidate string) bool {
			g.confirmed.Add(1)
			if leader != "l:1" || candidate == "" {
				t.Errorf("%q was asked about %q", leader, candidate)
			}
			select {
			case w := <-g.word:
				return w
			case <-ctx.Done():
				return false
			}
		},
	})
	t.Cleanup(func() {
		_ = g.Close()
		_ = others.Close()
		<-time.After(time.Minute) // the transport waits for answers that do not come
	})
	return g
}

// next is what raft gets next; nil if nothing comes.
func (g *guarded) next() any {
	select {
	case rpc := <-g.Consumer():
		rpc.Respond(answerTo(rpc.Command), nil)
		return rpc.Command
	case <-time.After(time.Minute):
		return nil
	}
}

func answerTo(command any) any {
	switch command.(type) {
	case *raft.AppendEntriesRequest:
		return &raft.AppendEntriesResponse{}
	case *raft.RequestVoteRequest:
		return &raft.RequestVoteResponse{}
	case *raft.RequestPreVoteRequest:
		return &raft.RequestPreVoteResponse{}
	case *raft.InstallSnapshotRequest:
		return &raft.InstallSnapshotResponse{}
	}
	return &raft.TimeoutNowResponse{}
}

func vote(id string, transfer bool) *raft.RequestVoteRequest {
	return &raft.RequestVoteRequest{RPCHeader: raft.RPCHeader{ID: []byte(id), Addr: []byte(id + ":1")}, Term: 6, LeadershipTransfer: transfer}
}

// The transfer counts with the leader's word only; without it a vote is one like any other, and the sender's copy stays.
func TestGuardOfTransfers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuarded(t)
		ask := func(q *raft.RequestVoteRequest) *raft.RequestVoteRequest {
			go func() { _ = g.others.RequestVote("s1", "s1:1", q, new(raft.RequestVoteResponse)) }()
			got, _ := g.next().(*raft.RequestVoteRequest)
			if got == nil {
				t.Fatal("the request did not arrive")
			}
			return got
		}
		g.word <- true
		if got := ask(vote("s2", true)); !got.LeadershipTransfer {
			t.Error("a transfer that the leader confirms was not taken for one")
		}
		g.word <- false
		q := vote("s2", true)
		if got := ask(q); got.LeadershipTransfer || got.Term != 6 || string(got.ID) != "s2" {
			t.Errorf("one that it does not: %+v", got)
		}
		if !q.LeadershipTransfer {
			t.Error("the sender's own request was changed")
		}
		began := time.Now()
		if got := ask(vote("s2", true)); got.LeadershipTransfer || time.Since(began) != confirmWithin {
			t.Errorf("a leader that does not answer: %+v after %v", got, time.Since(began))
		}
		asked := g.confirmed.Load()
		ask(vote("s2", false))
		g.leader.Store(&[2]string{})
		if got := ask(vote("s2", true)); got.LeadershipTransfer {
			t.Error("a transfer without a leader")
		}
		g.leader.Store(&[2]string{"s1:1", "s1"}) // itself
		if got := ask(vote("s2", true)); got.LeadershipTransfer {
			t.Error("a transfer that this leader knows nothing of")
		}
		go func() { <-g.others.Consumer() }()
		_ = g.TimeoutNow("s2", "s2:1", &raft.TimeoutNowRequest{}, new(raft.TimeoutNowResponse)) // nobody answers
		if g.HandsTo("s2") {
			t.Errorf("it stands by its word after %v", handingOver)
		}
		go func() {
			rpc := <-g.others.Consumer()
			rpc.Respond(&raft.TimeoutNowResponse{}, nil)
		}()
		if err := g.TimeoutNow("s2", "s2:1", &raft.TimeoutNowRequest{}, new(raft.TimeoutNowResponse)); err != nil {
			t.Fatal(err)
		}
		if got := ask(vote("s2", true)); !got.LeadershipTransfer || g.HandsTo("s3") || g.HandsTo("") {
			t.Error("its own word does not count, or counts for others")
		}
		if g.confirmed.Load() != asked {
			t.Error("another server was asked where this one knows")
		}
	})
}

func TestGuardOfTheWordToTakeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuarded(t)
		say := func() error {
			req := &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ID: []byte("l"), Addr: []byte("l:1")}}
			return g.others.TimeoutNow("s1", "s1:1", req, new(raft.TimeoutNowResponse))
		}
		g.word <- false
		if err := say(); !errors.Is(err, errNoTransfer) {
			t.Errorf("got %v", err)
		}
		g.word <- true
		go func() { _ = say() }()
		if _, ok := g.next().(*raft.TimeoutNowRequest); !ok {
			t.Error("the leader's word did not arrive")
		}
	})
}

// A snapshot that is refused is read all the same: what is left of it would be taken for the next request.
func TestGuardReadsWhatItRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuarded(t)
		content := strings.NewReader("a snapshot")
		refused := snapshotRequest(func(q *raft.InstallSnapshotRequest) { q.Configuration = []byte{0xc1} }).(*raft.InstallSnapshotRequest)
		err := g.others.InstallSnapshot("s1", "s1:1", refused, new(raft.InstallSnapshotResponse), content)
		if !errors.Is(err, errNotRafts) || content.Len() > 0 {
			t.Errorf("got %v with %d bytes left", err, content.Len())
		}
	})
}

// While the leader is asked others get through, and no more questions are under way than may be.
func TestGuardDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuarded(t)
		for range 2 * maxConfirming {
			go func() { _ = g.others.RequestVote("s1", "s1:1", vote("s2", true), new(raft.RequestVoteResponse)) }()
		}
		began := time.Now()
		for range maxConfirming { // those that are one too many
			if got, ok := g.next().(*raft.RequestVoteRequest); !ok || got.LeadershipTransfer {
				t.Fatalf("got %+v", got)
			}
		}
		go func() { _ = g.others.RequestVote("s1", "s1:1", vote("s2", false), new(raft.RequestVoteResponse)) }()
		if g.next() == nil || time.Since(began) != 0 {
			t.Errorf("others waited for %v", time.Since(began))
		}
		synctest.Wait()
		if n := g.confirmed.Load(); n != maxConfirming {
			t.Errorf("the leader was asked %d times", n)
		}
	})
}

// What comes before raft runs waits for it.
func TestGuardBeforeItsStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, inner := raft.NewInmemTransport("s1:1")
		_, others := raft.NewInmemTransport("s2:1")
		others.Connect("s1:1", inner)
		g := NewGuard(inner, nil)
		go func() { _ = others.RequestVote("s1", "s1:1", vote("s2", false), new(raft.RequestVoteResponse)) }()
		synctest.Wait()
		select {
		case <-g.Consumer():
			t.Error("a request passed before the start")
		default:
		}
		g.Start(Facts{Self: "s1", Term: func() uint64 { return 5 }, Leader: func() (string, string) { return "", "" }})
		rpc := <-g.Consumer()
		rpc.Respond(&raft.RequestVoteResponse{}, nil)
		synctest.Wait()
		if err := errors.Join(g.Close(), others.Close()); err != nil {
			t.Error(err)
		}
		<-time.After(time.Minute)
		g.Start(Facts{}) // too late, and nothing comes of it
	})
}

// An answer's term would be taken over as a request's is.
func TestGuardOfAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuarded(t)
		answers := func(term uint64) {
			rpc := <-g.others.Consumer()
			switch rpc.Command.(type) {
			case *raft.AppendEntriesRequest:
				rpc.Respond(&raft.AppendEntriesResponse{Term: term}, nil)
			case *raft.RequestVoteRequest:
				rpc.Respond(&raft.RequestVoteResponse{Term: term}, nil)
			case *raft.RequestPreVoteRequest:
				rpc.Respond(&raft.RequestPreVoteResponse{Term: term}, nil)
			case *raft.InstallSnapshotRequest:
				rpc.Respond(&raft.InstallSnapshotResponse{Term: term}, nil)
			}
		}
		for name, send := range map[string]func() error{
			"entries": func() error {
				return g.AppendEntries("s2", "s2:1", &raft.AppendEntriesRequest{Term: 5}, new(raft.AppendEntriesResponse))
			},
			"vote": func() error { return g.RequestVote("s2", "s2:1", vote("s1", false), new(raft.RequestVoteResponse)) },
			"pre-vote": func() error {
				return g.RequestPreVote("s2", "s2:1", &raft.RequestPreVoteRequest{Term: 6}, new(raft.RequestPreVoteResponse))
			},
			"snapshot": func() error {
				return g.InstallSnapshot("s2", "s2:1", &raft.InstallSnapshotRequest{Term: 5}, new(raft.InstallSnapshotResponse), nil)
			},
		} {
			go answers(5 + maxTermJump)
			if err := send(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			before := g.Dropped()
			go answers(1 << 63)
			if err := send(); !errors.Is(err, errNotRafts) || g.Dropped() != before+1 {
				t.Errorf("%s of a huge term: %v", name, err)
			}
		}
	})
}

func configurationOf(servers ...raft.Server) []byte {
	return raft.EncodeConfiguration(raft.Configuration{Servers: servers})
}

var (
	fromS2     = raft.RPCHeader{ID: []byte("s2"), Addr: []byte("s2:1")}
	voterA     = raft.Server{ID: "a", Address: "a:1"}
	nonVoterB  = raft.Server{ID: "b", Address: "b:1", Suffrage: raft.Nonvoter}
	inTermFive = Facts{Self: "s1", Term: func() uint64 { return 5 }, Leader: func() (string, string) { return "l:1", "l" }}
)

func appending(entries ...*raft.Log) any {
	return &raft.AppendEntriesRequest{RPCHeader: fromS2, Term: 5, PrevLogEntry: 7, PrevLogTerm: 3, Entries: entries}
}

func logEntry(index, term uint64, kind raft.LogType, data []byte) *raft.Log {
	return &raft.Log{Index: index, Term: term, Type: kind, Data: data}
}

func snapshotRequest(edit func(*raft.InstallSnapshotRequest)) any {
	q := &raft.InstallSnapshotRequest{RPCHeader: fromS2, SnapshotVersion: 1, Term: 5, LastLogIndex: 9, LastLogTerm: 4, ConfigurationIndex: 2,
		Peers: []byte("of the old form, which is not looked at"), Configuration: configurationOf(voterA, nonVoterB), Size: 9}
	edit(q)
	return q
}

func TestJudgePasses(t *testing.T) {
	for name, q := range map[string]any{
		"a heartbeat":         &raft.AppendEntriesRequest{RPCHeader: fromS2, Term: 5},
		"of a lost office":    appending(logEntry(8, 6, raft.LogNoop, nil)),
		"a higher term":       &raft.AppendEntriesRequest{RPCHeader: fromS2, Term: 5 + maxTermJump},
		"an old term":         &raft.AppendEntriesRequest{RPCHeader: fromS2},
		"entries":             appending(logEntry(8, 3, raft.LogNoop, nil), logEntry(9, 5, raft.LogCommand, []byte("x")), logEntry(10, 5, raft.LogBarrier, nil), logEntry(11, 5, raft.LogConfiguration, configurationOf(voterA))),
		"a vote":              vote("s2", false),
		"the leader's vote":   &raft.RequestVoteRequest{RPCHeader: raft.RPCHeader{ID: []byte("l"), Addr: []byte("l:1")}, Term: 6},
		"a pre-vote":          &raft.RequestPreVoteRequest{RPCHeader: fromS2, Term: 6},
		"a snapshot":          snapshotRequest(func(*raft.InstallSnapshotRequest) {}),
		"a word to take over": &raft.TimeoutNowRequest{RPCHeader: fromS2},
	} {
		if err := judge(q, inTermFive); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestJudgeDrops(t *testing.T) {
	last := uint64(1<<64 - 1)
	for says, q := range map[string]any{
		"name of server \"\"":          &raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{Addr: []byte("l:1")}, Term: 5},
		"term 1000006, and":            &raft.AppendEntriesRequest{RPCHeader: fromS2, Term: 6 + maxTermJump},
		"term 18446744073709551615":    &raft.RequestVoteRequest{RPCHeader: fromS2, Term: last},
		"term 9223372036854775808":     &raft.RequestPreVoteRequest{RPCHeader: fromS2, Term: 1 << 63},
		"term 9223372036854775809":     snapshotRequest(func(q *raft.InstallSnapshotRequest) { q.Term = 1<<63 + 1 }),
		"no entry after":               appending(nil),
		"entry 9 after index 7":        appending(logEntry(9, 5, raft.LogNoop, nil)),
		"entry 8 after index 8":        appending(logEntry(8, 5, raft.LogNoop, nil), logEntry(8, 5, raft.LogNoop, nil)),
		"entry 0 after":                &raft.AppendEntriesRequest{RPCHeader: fromS2, Term: 5, PrevLogEntry: last, Entries: []*raft.Log{{Term: 5}}},
		"8 of term 2, after":           appending(logEntry(8, 2, raft.LogNoop, nil)),
		"term 1000007, and":            appending(logEntry(8, 5, raft.LogNoop, nil), logEntry(9, 7+maxTermJump, raft.LogNoop, nil)),
		"type LogAddPeerDeprecated":    appending(logEntry(8, 5, raft.LogAddPeerDeprecated, nil)),
		"type LogRemovePeerDeprecated": appending(logEntry(8, 5, raft.LogRemovePeerDeprecated, nil)),
		"of type 6":                    appending(logEntry(8, 5, 6, nil)),
		"configuration at index 8":     appending(logEntry(8, 5, raft.LogConfiguration, []byte("x"))),
		"version 0":                    snapshotRequest(func(q *raft.InstallSnapshotRequest) { q.SnapshotVersion = 0 }),
		"-1 bytes":                     snapshotRequest(func(q *raft.InstallSnapshotRequest) { q.Size = -1 }),
		"1099511627777 bytes":          snapshotRequest(func(q *raft.InstallSnapshotRequest) { q.Size = maxSnapshotSize + 1 }),
		"term 1000008, and":            snapshotRequest(func(q *raft.InstallSnapshotRequest) { q.LastLogTerm = 8 + maxTermJump }),
		"configuration of index 10":    snapshotRequest(func(q *raft.InstallSnapshotRequest) { q.ConfigurationIndex = 10 }),
		"snapshot's configuration":     snapshotRequest(func(q *raft.InstallSnapshotRequest) { q.Configuration = nil }),
		"address of the leader":        &raft.RequestVoteRequest{RPCHeader: raft.RPCHeader{ID: []byte("s2"), Addr: []byte("l:1")}, Term: 6},
		"server \"s2\" at \"\"":        &raft.RequestVoteRequest{RPCHeader: raft.RPCHeader{ID: []byte("s2")}, Term: 6},
		"server \"s2\" at \"a b\"":     &raft.RequestVoteRequest{RPCHeader: raft.RPCHeader{ID: []byte("s2"), Addr: []byte("a\nb")}, Term: 6},
		"server \"s2\" at \"xxxxx":     &raft.RequestVoteRequest{RPCHeader: raft.RPCHeader{ID: []byte("s2"), Addr: bytes.Repeat([]byte("x"), maxString+1)}, Term: 6},
		"a vote for the address":       &raft.RequestPreVoteRequest{RPCHeader: raft.RPCHeader{ID: []byte("s2"), Addr: []byte("l:1")}, Term: 6},
		"a request of type *raft.Log":  new(raft.Log),
	} {
		if err := judge(q, inTermFive); !errors.Is(err, errNotRafts) || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want it to say %q", err, says)
		}
	}
}

func TestConfigurationInForm(t *testing.T) {
	for says, c := range map[string][]byte{
		"cut off after 0":  nil,
		"cut off after":    configurationOf(voterA)[:9],
		"before the":       append(configurationOf(voterA), 0),
		"no map":           bytes.Repeat([]byte{0x91}, 1<<20),
		"nested deeper":    append([]byte{0x81, 0xa0}, bytes.Repeat([]byte{0x91}, 100)...),
		"msgpack decode":   []byte("\x81\xa7Servers\xa1x"),
		"0 servers":        configurationOf(),
		"65 servers":       configurationOf(make([]raft.Server, 65)...),
		"server \"\" at":   configurationOf(raft.Server{Address: "a:1"}),
		"at \"\"":          configurationOf(raft.Server{ID: "a"}),
		"\"a\" or its":     configurationOf(voterA, raft.Server{ID: "a", Address: "c:1"}),
		"address \"a:1\"":  configurationOf(voterA, raft.Server{ID: "c", Address: "a:1"}),
		"with suffrage 2":  configurationOf(voterA, raft.Server{ID: "c", Address: "c:1", Suffrage: raft.Staging}),
		"nobody votes":     configurationOf(nonVoterB),
		"server \"xxxxxxx": configurationOf(raft.Server{ID: raft.ServerID(strings.Repeat("x", maxServerText+1)), Address: "c:1"}),
	} {
		if err := configurationInForm(c); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want it to say %q", err, says)
		}
	}
}

// FuzzGuard: whatever raft's decoder makes of bytes that passed the check of the port, it is in the name of the connection,
// ends where the check says, does not make judging panic, and has only configurations that raft decodes.
func FuzzGuard(f *testing.F) {
	for _, raw := range realRequests() {
		f.Add(raw[:min(len(raw), 4096)])
	}
	f.Add(record(func(tr *raft.NetworkTransport) {
		_ = tr.AppendEntries("s2", "b:1", &raft.AppendEntriesRequest{RPCHeader: header, Term: 3, PrevLogEntry: 1,
			Entries: []*raft.Log{{Index: 2, Term: 3, Type: raft.LogConfiguration, Data: configurationOf(voterA)}}}, new(raft.AppendEntriesResponse))
	}))
	f.Add(record(func(tr *raft.NetworkTransport) {
		_ = tr.InstallSnapshot("s2", "b:1", &raft.InstallSnapshotRequest{RPCHeader: header, SnapshotVersion: 1, Term: 3, Configuration: configurationOf(voterA)},
			new(raft.InstallSnapshotResponse), bytes.NewReader(nil))
	}))
	facts := Facts{Self: "s1", Term: func() uint64 { return 3 }, Leader: func() (string, string) { return "l:1", "l" }}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if configurationInForm(raw) == nil {
			_ = raft.DecodeConfiguration(raw)
		}
		c := newPrecheck("s1")
		if len(raw) == 0 || c.feed(raw) != nil || c.phase != atAnswer && c.phase != inStream {
			return
		}
		command := []any{new(raft.AppendEntriesRequest), new(raft.RequestVoteRequest), new(raft.InstallSnapshotRequest),
			new(raft.TimeoutNowRequest), new(raft.RequestPreVoteRequest)}[raw[0]]
		if codec.NewDecoderBytes(raw[1:], &codec.MsgpackHandle{}).Decode(command) != nil {
			return
		}
		if id := senderOf(command); id != "" && id != "s1" {
			t.Fatalf("a request in the name of %q passed on the connection of s1", id)
		}
		if q, ok := command.(*raft.InstallSnapshotRequest); ok {
			head := newPrecheck("s1")
			for at := 0; at == 0 || head.phase == inValue; at++ {
				_ = head.feed(raw[at : at+1])
			}
			if head.left != q.Size {
				t.Fatalf("a snapshot of %d bytes is taken for one of %d", q.Size, head.left)
			}
		}
		if judge(command, facts) != nil {
			return
		}
		if q, ok := command.(*raft.InstallSnapshotRequest); ok {
			_ = raft.DecodeConfiguration(q.Configuration)
		}
		if q, ok := command.(*raft.AppendEntriesRequest); ok {
			for _, e := range q.Entries {
				if e.Type == raft.LogConfiguration {
					_ = raft.DecodeConfiguration(e.Data)
				}
			}
		}
	})
}
