package api_test

import (
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/scope-registry/scope-registry/internal/api"
)

func TestEveryCodeHasARow(t *testing.T) {
	for _, c := range api.Codes() {
		if c.HTTPStatus() < 400 || c.HTTPStatus() > 599 || c.ExitCode() < 1 || c.ExitCode() > 9 {
			t.Errorf("%s: status %d, exit %d", c, c.HTTPStatus(), c.ExitCode())
		}
	}
	for _, c := range []api.Code{api.SessionBusy, api.SessionExpired, api.IdentityChanged} {
		if c.HTTPStatus() != http.StatusConflict || c.ExitCode() != 4 || c.Outcome() != api.NotApplied || c.RESP() != string(c) {
			t.Errorf("%s: status %d, exit %d, %s, -%s", c, c.HTTPStatus(), c.ExitCode(), c.Outcome(), c.RESP())
		}
	}
	if api.Overlap.HTTPStatus() != http.StatusConflict || api.OutcomeUnknown.ExitCode() != 8 || api.Corrupt.ExitCode() != 9 {
		t.Error("the table differs from the documented one")
	}
}

func TestOutcome(t *testing.T) {
	for c, want := range map[api.Code]api.Outcome{api.OutcomeUnknown: api.Unknown, api.Internal: api.Unknown, "NEWER": api.Unknown, api.Overlap: api.NotApplied, api.NoLeader: api.NotApplied} {
		if c.Outcome() != want {
			t.Errorf("%s: %s, want %s", c, c.Outcome(), want)
		}
	}
}

func TestErrorsAre(t *testing.T) {
	err := fmt.Errorf("asked s2: %w", &api.Error{Code: api.Overlap, Detail: "x"})
	if !errors.Is(err, &api.Error{Code: api.Overlap}) || errors.Is(err, &api.Error{Code: api.Exists}) {
		t.Error("errors.Is does not go by code")
	}
	if api.CodeOf(err) != api.Overlap || api.CodeOf(errors.New("?")) != api.Internal {
		t.Error("CodeOf")
	}
}
