package fsm

import (
	"fmt"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// refuse makes the error of a refusal.
func refuse(code api.Code, format string, args ...any) *api.Error {
	return &api.Error{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// resultOf turns an outcome into the record that is answered and remembered.
func resultOf(done *Result, err *api.Error, index uint64) *Result {
	if err == nil {
		return &Result{Index: index, Epoch: done.GetEpoch(), Move: done.GetMove(), Owner: done.GetOwner(),
			Changed: done.GetChanged(), Warnings: done.GetWarnings()}
	}
	conflict, _ := scope.ParseBytes(err.ConflictsWith)
	return &Result{Code: string(err.Code), Detail: err.Detail, Index: index, Epoch: err.Epoch, Move: err.Move,
		Owner: err.Owner, ConflictsWith: []byte(conflict), Floor: err.Floor}
}

// ResultError is nil if the command was applied, else the refusal as an
// *[api.Error].
func ResultError(r *Result) error {
	if r.GetCode() == "" {
		return nil
	}
	return &api.Error{Code: api.Code(r.GetCode()), Detail: r.GetDetail(), Index: r.GetIndex(), Epoch: r.GetEpoch(),
		Move: r.GetMove(), Owner: r.GetOwner(), ConflictsWith: scope.BytesText(string(r.GetConflictsWith())), Floor: r.GetFloor()}
}
