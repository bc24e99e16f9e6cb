package fsm

import (
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
