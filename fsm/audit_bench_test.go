package fsm

import (
	"fmt"
	"testing"

	"github.com/scope-registry/scope-registry/internal/access"
)

// BenchmarkApplyAsked is a small change of the leader's own, and of somebody with a token, when the audit is full.
func BenchmarkApplyAsked(b *testing.B) {
	s := applied(b, founded(b), &CreateToken{Id: "root", Role: "admin", Hash: tokenHash("root")})
	o := OriginOf(access.Who{Role: access.Admin, Token: "root"}, "10.0.0.1", "")
	c := &SetNode{Id: "n1", Addr: "h:2"}
	for range MaxAudit {
		s, _, _ = s.Apply(At{Index: s.Index() + 1}, Envelope{Origin: o, Command: c})
	}
	for name, origin := range map[string]*Origin{"own": nil, "asked": o} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			s := s
			for b.Loop() {
				s, _, _ = s.Apply(At{Index: s.Index() + 1}, Envelope{Origin: origin, Command: c})
			}
		})
	}
}

// BenchmarkApplyEntry is an entry of 32 addresses that change, of 4,096 nodes, asked for by somebody unknown; the figures are of
// one of its commands.
func BenchmarkApplyEntry(b *testing.B) {
	const nodes, commands = 4096, 32
	s := founded(b)
	entry := func(turn int) []byte {
		envelopes := make([][]byte, commands)
		for i := range envelopes {
			e := Envelope{RequestID: fmt.Sprintf("%d-%032x", s.Index()+uint64(turn), turn*commands+i), Actor: "anonymous@127.0.0.1",
				Origin:  &Origin{Role: "anonymous", Source: "127.0.0.1"},
				Command: &SetNode{Id: fmt.Sprintf("n%04d", (turn*26544357+i*40503)%nodes), Addr: fmt.Sprintf("%080d.example:%d", turn, 1+i)}}
			var err error
			if envelopes[i], err = e.Encode(); err != nil {
				b.Fatal(err)
			}
		}
		data, err := EncodeEntry(0, envelopes)
		if err != nil {
			b.Fatal(err)
		}
		return data
	}
	entries := make([][]byte, 4096)
	for turn := range entries {
		entries[turn] = entry(turn)
	}
	began := s.index
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i += commands {
		turn := i / commands % len(entries)
		if turn == 0 {
			s.dedup, s.index = ring{}, began // the same requests come again
		}
		var err error
		if s, _, _, err = s.ApplyEntry(s.Index()+1, 1, entries[turn]); err != nil {
			b.Fatal(err)
		}
	}
}
