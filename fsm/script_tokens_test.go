package fsm

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/internal/access"
)

// origin reads who asks, as in as=operator/bob, as=token:t1 or as=anonymous; nobody is asked without it. host= is the
// address, because= the reason.
func (s *script) origin(a args) *Origin {
	s.t.Helper()
	text, ok := a.named["as"]
	if !ok {
		return nil
	}
	who := access.Who{Role: access.Anonymous}
	if id, token := strings.CutPrefix(text, "token:"); token {
		who = s.shown[id]
	} else if role, id, _ := strings.Cut(text, "/"); role != "anonymous" {
		parsed, err := access.ParseRole(role)
		if err != nil {
			s.t.Fatal(err)
		}
		who = access.Who{Role: parsed, ID: id}
	}
	return OriginOf(who, a.named["host"], strings.ReplaceAll(a.text("because"), "_", " "))
}

// tokenCommand reads a change of tokens. The secret is "<id>-secret", unless the line gives another.
func (a args) tokenCommand(t *testing.T) Command {
	t.Helper()
	switch a.cmd {
	case "token":
		secret := a.pos(0) + "-secret"
		if text, ok := a.named["secret"]; ok {
			secret = text
		}
		hash := tokenHash(secret)
		return &CreateToken{Id: repeated(a.pos(0)), Hash: hash, Role: a.text("role"), Node: a.text("node"), Prefix: []byte(a.text("prefix")),
			ExpiresMs: int64(a.num(t, "expires")), First: a.has("first")}
	case "revoke":
		return &RevokeToken{Id: a.pos(0)}
	}
	t.Fatalf("unknown command %q", a.cmd)
	return nil
}

func (s *script) tokens() {
	for t := range s.state.Tokens() {
		fmt.Fprintf(&s.out, "  %s created=%d@%d by=%s\n", tokenText(t), t.CreatedMS, t.Created, t.CreatedBy)
	}
	fmt.Fprintf(&s.out, "  first=%d changed=%d anonymous=%v\n", s.state.tokens.first, s.state.TokensChanged(), s.state.AdmitsAnonymous())
}

func tokenText(t Token) string {
	return fmt.Sprintf("token %s role=%s%s%s%s", t.ID, t.Role, field("node", t.Node), field("prefix", t.Prefix), field("expires", t.ExpiresMS))
}

func (s *script) auditText() {
	for r := range s.state.Audit(1) {
		fmt.Fprintf(&s.out, "  %d @%d %dms %s%s: %s%s%s%s%s%s\n", r.GetNumber(), r.GetIndex(), r.GetTimeMs(), r.GetActor(), field("from", r.GetSource()),
			r.GetAction(), field("prefix", string(r.GetPrefix())), field("subject", clipped(r.GetSubject())), field("move", r.GetMove()), field("reason", clipped(r.GetReason())), field("code", r.GetCode()))
	}
}

// putBack restores what was saved, by the log, in an incarnation above all.
func (s *script) putBack(a args) {
	sum := sha256.Sum256(s.saved)
	id, inc := fmt.Sprintf("u%d", s.state.Index()), s.state.Cluster().Incarnation+1
	o := s.origin(a)
	s.apply(Envelope{Actor: "ann", Origin: o, Command: &StageBackup{Id: id, Data: s.saved[:1]}})
	s.apply(Envelope{Actor: "ann", Origin: o, Command: &StageBackup{Id: id, Offset: 1, Data: s.saved[1:]}})
	s.apply(Envelope{Actor: "ann", Origin: o, Command: &Restore{Id: id, Bytes: uint64(len(s.saved)), Sha256: sum[:], Incarnation: inc, Tag: fmt.Sprintf("t%d", inc), Complete: true,
		FromCluster: a.text("of")}})
}

func (s *script) save() {
	var b bytes.Buffer
	if err := s.state.EncodeBackup(&b, 1); err != nil {
		s.t.Fatal(err)
	}
	s.saved = b.Bytes()
}

// access performs the lines that are about who asks; false of others.
func (s *script) access(a args) bool {
	switch a.cmd {
	case "tokens":
		s.tokens()
	case "audit":
		s.auditText()
	case "format":
		fmt.Fprintf(&s.out, "  %d\n", s.state.LogFormat())
	case "save":
		s.save()
	case "putback":
		s.putBack(a)
	case "empty":
		s.state = State{}
	case "reload":
		hash := s.state.Hash()
		l := NewLoader()
		for r := range s.state.Records() {
			if err := l.Add(r); err != nil {
				s.t.Fatal(err)
			}
		}
		back, err := l.State()
		if err != nil || back.Hash() != hash {
			s.t.Fatalf("the state comes back otherwise: %v", err)
		}
		s.state = back
	default:
		return false
	}
	return true
}
