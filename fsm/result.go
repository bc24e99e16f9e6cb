package fsm

import (
	"fmt"
	"slices"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// refuse makes the error of a refusal.
func refuse(code api.Code, format string, args ...any) *api.Error {
	return &api.Error{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// Bounds of a result. It stays in the ring of results and is in every snapshot,
// and what it quotes of a command may be as large as the command.
const (
	// MaxDetail bounds the words of a refusal in bytes: two of the longest
	// prefixes with every byte escaped, and what is said about them.
	MaxDetail = 8 << 10
	// maxWarnings bounds the warnings that are listed; more are counted.
	maxWarnings = 100
)

// resultOf turns an outcome into the record that is answered and remembered, which done becomes.
func resultOf(done *Result, err *api.Error, index uint64) *Result {
	if err == nil {
		done.Index, done.Warnings = index, fewWarnings(done.GetWarnings())
		return done
	}
	conflict, _ := scope.ParseBytes(err.ConflictsWith)
	return &Result{Code: string(err.Code), Detail: cut(err.Detail, MaxDetail), Index: index, Epoch: err.Epoch, Move: err.Move,
		Owner: err.Owner, ConflictsWith: []byte(conflict), Floor: err.Floor}
}

func fewWarnings(all []string) []string {
	if len(all) <= maxWarnings {
		return all
	}
	return append(slices.Clone(all[:maxWarnings]), fmt.Sprintf("and %d more", len(all)-maxWarnings))
}

// ResultError is nil if the command was applied, else the refusal as an
// *[api.Error]. Its Index is that of the log entry; of INDEX_CHANGED it is the
// lowest index that a new plan must have seen, as Floor is.
func ResultError(r *Result) error {
	if r.GetCode() == "" {
		return nil
	}
	err := &api.Error{Code: api.Code(r.GetCode()), Detail: r.GetDetail(), Index: r.GetIndex(), Epoch: r.GetEpoch(),
		Move: r.GetMove(), Owner: r.GetOwner(), ConflictsWith: scope.BytesText(string(r.GetConflictsWith())), Floor: r.GetFloor()}
	if err.Code == api.IndexChanged {
		err.Index = err.Floor // the record keeps the index of its entry, which dates it in the ring
	}
	return err
}
