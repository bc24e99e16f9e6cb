package peer

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"
	"pgregory.net/rapid"
)

// tape is a StreamLayer whose connections keep what raft writes and answer nothing.
type tape struct {
	net.Conn
	written bytes.Buffer
}

func (p *tape) Dial(raft.ServerAddress, time.Duration) (net.Conn, error) { return p, nil }
func (p *tape) Accept() (net.Conn, error)                                { return nil, net.ErrClosed }
func (p *tape) Addr() net.Addr                                           { return advertised("tape:1") }
func (p *tape) Close() error                                             { return nil }
func (p *tape) SetDeadline(time.Time) error                              { return nil }
func (p *tape) Write(b []byte) (int, error)                              { return p.written.Write(b) }
func (p *tape) Read([]byte) (int, error)                                 { return 0, io.EOF }

// record returns the bytes raft sends for one request.
func record(send func(tr *raft.NetworkTransport)) []byte { return recordTimes(false, send) }

// recordTimes does so with either form of times.
func recordTimes(newForm bool, send func(tr *raft.NetworkTransport)) []byte {
	p := new(tape)
	tr := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: p, MaxRPCsInFlight: 1, Logger: quiet(), MsgpackUseNewTimeFormat: newForm,
	})
	defer tr.Close()
	send(tr)
	return p.written.Bytes()
}

func entries(n, size int) (out []*raft.Log) {
	for i := range n {
		out = append(out, &raft.Log{
			Index: uint64(i + 1), Term: 3, Type: raft.LogCommand, Data: bytes.Repeat([]byte{byte(i)}, size),
			Extensions: []byte("ext"), AppendedAt: time.Unix(1_700_000_000, 5),
		})
	}
	return out
}

var header = raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("s1"), Addr: []byte("a:7000")}

// realRequests are requests as raft v1.7.3 encodes them, each type once and with extremes.
func realRequests() map[string][]byte {
	vote := &raft.RequestVoteRequest{RPCHeader: header, Term: 1 << 40, LastLogIndex: 9, LastLogTerm: 3, LeadershipTransfer: true}
	appending := func(e []*raft.Log) func(*raft.NetworkTransport) {
		return func(tr *raft.NetworkTransport) {
			_ = tr.AppendEntries("s2", "b:1", &raft.AppendEntriesRequest{RPCHeader: header, Term: 3,
				PrevLogEntry: 70_000, PrevLogTerm: 2, Entries: e, LeaderCommitIndex: 1 << 33}, new(raft.AppendEntriesResponse))
		}
	}
	return map[string][]byte{
		"heartbeat":        record(appending(nil)),
		"one entry":        record(appending(entries(1, 10))),
		"dated entries":    recordTimes(true, appending(append(entries(2, 10), &raft.Log{AppendedAt: time.Unix(-1, 5)}, &raft.Log{AppendedAt: time.Unix(9, 0)}))),
		"1,024 entries":    record(appending(entries(1024, 3))),
		"64 large entries": record(appending(entries(64, 70_000))),
		"vote":             record(func(tr *raft.NetworkTransport) { _ = tr.RequestVote("s2", "b:1", vote, new(raft.RequestVoteResponse)) }),
		"pre-vote": record(func(tr *raft.NetworkTransport) {
			_ = tr.RequestPreVote("s2", "b:1", &raft.RequestPreVoteRequest{RPCHeader: header, Term: 4}, new(raft.RequestPreVoteResponse))
		}),
		"transfer": record(func(tr *raft.NetworkTransport) {
			_ = tr.TimeoutNow("s2", "b:1", &raft.TimeoutNowRequest{RPCHeader: header}, new(raft.TimeoutNowResponse))
		}),
		"snapshot": record(func(tr *raft.NetworkTransport) {
			_ = tr.InstallSnapshot("s2", "b:1", &raft.InstallSnapshotRequest{RPCHeader: header, SnapshotVersion: 1, Term: 3,
				Leader: []byte("a:7000"), LastLogIndex: 9, Configuration: make([]byte, 900), Size: 2 << 20},
				new(raft.InstallSnapshotResponse), bytes.NewReader(make([]byte, 2<<20)))
		}),
	}
}

func TestPrecheckPassesWhatRaftSends(t *testing.T) {
	for name, raw := range realRequests() {
		rapid.Check(t, func(t *rapid.T) {
			c, rest := newPrecheck("s1"), raw
			for len(rest) > 0 {
				n := min(len(rest), rapid.IntRange(1, max(1, len(raw)/3)).Draw(t, "n"))
				if err := c.feed(rest[:n]); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				rest = rest[n:]
			}
			if c.phase != atAnswer {
				t.Fatalf("%s ends in phase %d", name, c.phase)
			}
			c.answered()
			c.answered() // a long answer goes out in several writes
			err := c.feed(raw[:1])
			if err != nil {
				t.Fatalf("%s: no request is taken after the answer: %v", name, err)
			}
			if c.phase != inValue {
				t.Fatalf("%s: what follows the answer is not taken for a request", name)
			}
		})
	}
}

func TestPrecheckRefuses(t *testing.T) {
	heartbeat := realRequests()["heartbeat"]
	bin := func(kind byte, size uint32) []byte { // a request that is one string of that size, with the name ""
		return []byte{kind, 0x81, 0xa0, 0xdb, byte(size >> 24), byte(size >> 16), byte(size >> 8), byte(size)}
	}
	for name, tc := range map[string]struct {
		raw  []byte
		says string
	}{
		"unknown type":      {[]byte{5}, "type 5 is unknown"},
		"text":              {[]byte("GET / HTTP/1.1"), "type 71 is unknown"},
		"two at once":       {append(bytes.Clone(heartbeat), heartbeat...), "before the request they follow was answered"},
		"large entry":       {bin(raftAppendEntries, MaxRaftFrame), "the whole request may have 83886080"},
		"large vote":        {bin(1, maxRaftSmall), "the whole request may have 1048576"},
		"large transfer":    {bin(3, maxRaftSmall), "the whole request may have 1048576"},
		"snapshot's head":   {bin(raftInstallSnapshot, maxRaftSmall), "the whole request may have 1048576"},
		"4 GiB ext":         {[]byte{0, 0x81, 0xa0, 0xc9, 0xff, 0xff, 0xff, 0xff}, "a value of type c9"},
		"empty ext":         {[]byte{0, 0x81, 0xa0, 0xc8, 0, 0, 1}, "a value of type c8"},
		"ext, not a time":   {[]byte{0, 0x81, 0xa0, 0xc7, 5, 1}, "a value of type c7"},
		"many values":       {[]byte{0, 0x81, 0xa0, 0xdd, 0xff, 0xff, 0xff, 0xff}, "more than 16384 values"},
		"many names":        {[]byte{0, 0xdf, 0xff, 0xff, 0xff, 0xff}, "more than 16384 values"},
		"many lists":        {append([]byte{0, 0x81, 0xa0, 0xdc, 0x3f, 0xf0}, bytes.Repeat([]byte{0x9f}, 2)...), "more than 16384 values"},
		"deep":              {bytes.Repeat([]byte{0x91}, 20)[:20:20], "type 145"},
		"deep value":        {append([]byte{0, 0x81, 0xa0}, bytes.Repeat([]byte{0x91}, 20)...), "nested deeper"},
		"a byte of nothing": {[]byte{0, 0x81, 0xa0, 0xc1}, "c1 means nothing"},
		"a list":            {[]byte{0, 0x91, 0xa0}, "no map"},
		"a number":          {[]byte{0, 7}, "no map"},
		"a number's name":   {[]byte{0, 0x81, 7}, "a name of type 7"},
		"a long name":       {[]byte{0, 0x81, 0xd9, 65}, "a name of type d9 and 65 bytes"},
		"another's name":    {[]byte("\x00\x81\xa2ID\xa2s2"), `in the name of server "s2"`},
		"a longer name":     {[]byte("\x00\x81\xa2ID\xa3s11"), `not in the name of server "s1"`},
		"another's later":   {[]byte("\x00\x82\xa2ID\xa2s1\xa2ID\xa2s2"), `in the name of server "s2"`},
		"a name in a list":  {[]byte("\x00\x81\xa2ID\x92s1"), `not in the name of server "s1"`},
		"a size as a text":  {[]byte("\x02\x81\xa4Size\xa11"), "size of type a1"},
		"a negative size":   {[]byte("\x02\x81\xa4Size\xff"), "size of type ff"},
		"a size of 2^63":    {[]byte("\x02\x81\xa4Size\xcf\x80\x00\x00\x00\x00\x00\x00\x00"), "a snapshot of 9223372036854775808 bytes"},
		"a size below zero": {[]byte("\x02\x81\xa4Size\xd0\xff"), "a snapshot of 18446744073709551615 bytes"},
		"after a snapshot":  {[]byte("\x02\x81\xa4Size\x03abcd"), "1 bytes arrived before the request"},
		"in another text":   {[]byte("\x00\x81\xc4\x02ID\xc4\x02s2"), `in the name of server "s2"`},
	} {
		c := newPrecheck("s1")
		err := c.feed(tc.raw)
		if !errors.Is(err, errRaftFrame) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		c.answered()
		if again := c.feed(heartbeat); again != err {
			t.Errorf("%s: then took %v", name, again)
		}
	}
}

// The bound is on the bytes let through, also where every header is honest.
func TestPrecheckCountsBytes(t *testing.T) {
	for _, filler := range []byte{0x00, 0x90, 0x80, 0xa0} { // a number, an empty list, map, string
		c := &precheck{maxFrame: 100, from: "s1"}
		passed := 0
		for _, b := range append([]byte{0, 0x81, 0xa0, 0xdc, 0x10, 0}, bytes.Repeat([]byte{filler}, 200)...) {
			if c.feed([]byte{b}) != nil {
				break
			}
			passed++
		}
		if passed != 100 {
			t.Errorf("%d bytes passed with %x", passed, filler)
		}
	}
}

// FuzzPrecheck: no panic, no more than the limit let through, the same result in any portions, and a request
// ends where raft's own decoder says it ends.
func FuzzPrecheck(f *testing.F) {
	for _, raw := range realRequests() {
		f.Add(raw[:min(len(raw), 4096)], uint16(7))
	}
	f.Add([]byte{0, 0xc8, 0, 0, '0', '0'}, uint16(1))
	f.Fuzz(func(t *testing.T, raw []byte, portion uint16) {
		const limit = 2048
		byByte := &precheck{maxFrame: limit, from: "s1"}
		passed, ends := 0, 0
		for _, b := range raw {
			if byByte.feed([]byte{b}) != nil || byByte.phase == inStream {
				break
			}
			passed++
			if byByte.phase == atAnswer && ends == 0 {
				ends = passed
			}
		}
		if passed > limit {
			t.Fatalf("%d bytes passed", passed)
		}
		inPortions := &precheck{maxFrame: limit, from: "s1"}
		for rest := raw; len(rest) > 0; {
			n := min(len(rest), int(portion)+1)
			if inPortions.feed(rest[:n]) != nil {
				break
			}
			rest = rest[n:]
		}
		if (byByte.err == nil) != (inPortions.err == nil) && byByte.phase != inStream {
			t.Fatalf("byte by byte %v, in portions %v", byByte.err, inPortions.err)
		}
		if ends > 1 {
			var value codec.Raw
			dec := codec.NewDecoderBytes(raw[1:], &codec.MsgpackHandle{})
			if err := dec.Decode(&value); err == nil && dec.NumBytesRead() != ends-1 {
				t.Fatalf("the request ends after %d bytes, for raft's decoder after %d", ends, dec.NumBytesRead()+1)
			}
		}
	})
}
