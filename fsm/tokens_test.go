package fsm

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

func secretOf(t testing.TB, id string, fill byte) access.Token {
	t.Helper()
	var secret [access.SecretLen]byte
	for i := range secret {
		secret[i] = fill
	}
	token, err := access.NewToken(id, secret)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestAuthenticate(t *testing.T) {
	root, node, part := secretOf(t, "root", 1), secretOf(t, "n1", 2), secretOf(t, "part", 3)
	s := applied(t, founded(t), &CreateToken{Id: "root", Role: "admin", Hash: root.Hash()})
	s = applied(t, s, &CreateToken{Id: "n1", Role: "node", Node: "n1", Hash: node.Hash(), ExpiresMs: 5000})
	s = applied(t, s, &CreateToken{Id: "part", Role: "operator", Prefix: []byte("a:"), Hash: part.Hash()})
	s = applied(t, s, &CreateToken{Id: "gone", Role: "admin", Hash: root.Hash()})
	s = applied(t, s, &RevokeToken{Id: "gone"})
	for token, want := range map[access.Token]access.Who{root: {Role: access.Admin, Token: "root"}, node: {Role: access.Node, ID: "n1", Token: "n1"},
		part: {Role: access.Operator, Token: "part", Prefix: scope.Prefix("a:")}} {
		who, until, err := s.Authenticate(token, 4999)
		end := int64(math.MaxInt64)
		if token == node {
			end = 5000
		}
		if err != nil || who != want || until != end {
			t.Errorf("%v is %+v until %d, %v", token, who, until, err)
		}
	}
	said := map[string]bool{}
	for _, bad := range []struct {
		token access.Token
		nowMS int64
	}{{secretOf(t, "root", 9), 0}, {secretOf(t, "nobody", 0), 0}, {node, 5000}, {secretOf(t, "gone", 1), 0}, {secretOf(t, "nobody", 1), 0}} {
		who, until, err := s.Authenticate(bad.token, bad.nowMS)
		if err == nil || api.CodeOf(err) != api.Unauthenticated || who != (access.Who{}) || until != 0 {
			t.Errorf("%v at %d is %+v until %d, %v", bad.token, bad.nowMS, who, until, err)
			continue
		}
		if strings.Contains(err.Error(), bad.token.Text()[8:40]) {
			t.Errorf("%v shows a secret", err)
		}
		said[strings.ReplaceAll(err.Error(), strings.Split(bad.token.Text(), "_")[1], "ID")] = true
	}
	if len(said) != 1 {
		t.Errorf("the refusals tell apart what is wrong: %v", said)
	}
	if s.AdmitsAnonymous() || s.TokensChanged() != s.Index() {
		t.Errorf("anonymous are admitted: %v, changed at %d of %d", s.AdmitsAnonymous(), s.TokensChanged(), s.Index())
	}
}

func TestTokenLimit(t *testing.T) {
	s := applied(t, founded(t), &CreateToken{Id: "root", Role: "admin", Hash: tokenHash("root")})
	for i := range MaxTokens - 1 {
		s = applied(t, s, &CreateToken{Id: fmt.Sprintf("t%d", i), Role: "viewer", Hash: tokenHash("x")})
	}
	wantLimit(t, s, &CreateToken{Id: "more", Role: "viewer", Hash: tokenHash("x")}, api.Limit, MaxTokens)
	s = applied(t, s, &CreateToken{Id: "t0", Role: "viewer", Hash: tokenHash("x")}) // an earlier try of one that is there
	s = applied(t, s, &RevokeToken{Id: "t1"})
	s = applied(t, s, &CreateToken{Id: "more", Role: "viewer", Hash: tokenHash("x")})
	if err := s.Check(); err != nil {
		t.Error(err)
	}
}

// Every command of the schema is one that goes there and back, and that the tests of unknown fields try.
func TestSamplesAreComplete(t *testing.T) {
	tried := map[string]bool{}
	for _, c := range samples() {
		tried[fmt.Sprintf("%T", c)] = true
	}
	for _, d := range deeds {
		if !tried[fmt.Sprintf("%T", d.c)] {
			t.Errorf("there is no sample of %T", d.c)
		}
	}
}
