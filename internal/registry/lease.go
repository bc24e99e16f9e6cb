package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
	"github.com/scope-registry/scope-registry/transport/peer"
)

// leadingPage is how many leases go into one answer between servers. One of the longest takes some 600 bytes, so that a
// page, with the progress of all running moves in the first, stays well below what a frame takes.
const leadingPage = 1000

// LeaseStats are counts of this server since it started. What only the leader does is counted by the one that did it.
type LeaseStats struct {
	Granted  uint64 // renewals
	Refused  uint64 // renewals
	Expiries uint64 // proposals to end a session; one that was not written is proposed, and counted, again
	Live     int    // sessions in this server's state
}

type leaseCounts struct{ granted, refused, expiries atomic.Uint64 }

// LeaseStats returns the counts. What came of the expiries, and takeovers, is in the state's events.
func (r *Registry) LeaseStats() LeaseStats {
	return LeaseStats{Granted: r.counts.granted.Load(), Refused: r.counts.refused.Load(),
		Expiries: r.counts.expiries.Load(), Live: r.fsm.State().SessionsLen()}
}

// Leases are the times of the cluster.
func (r *Registry) Leases() api.Leases { return r.cfg.Leases }

// Renew makes a session's lease last for the time that is answered, counted from when its holder sent the renewal. From any
// server. The error is SESSION_EXPIRED, FORBIDDEN, STALE for a node that does not see what concerns it, INVALID, NO_LEADER, TIMEOUT,
// LIMIT, or UNAVAILABLE when this server stops. After another error than the first the holder may try again while its
// lease lasts.
func (r *Registry) Renew(ctx context.Context, renewal api.Renewal) (renewed api.Renewed, err error) {
	if len(renewal.Session) > fsm.MaxRandom {
		return renewed, tooLong("session", len(renewal.Session), fsm.MaxRandom)
	}
	err = r.askOffice(ctx, "renewing a session", func(ctx context.Context, l leader) (err error) {
		if l.self {
			renewed, err = r.renewHere(ctx, renewal)
			return err
		}
		return r.askJSON(ctx, l, peer.KindRenew, renewal, &renewed)
	})
	return renewed, err
}

// renewHere is Renew on the leader. The office is taken before the confirm and must be the same after it: the confirm shows
// that nobody else led until then, and so that this ledger has missed no expiry.
func (r *Registry) renewHere(ctx context.Context, renewal api.Renewal) (renewed api.Renewed, err error) {
	o := r.office.Load()
	if o == nil {
		return renewed, &definite{errNotInOffice}
	}
	lane := renewal.Session
	if _, live := o.state().Holder(lane); !live {
		lane = "" // made up, or opened where another one leads by now: it waits with the reads, as there may be any number
	}
	if _, err := r.confirms.confirmFor(ctx, lane); err != nil {
		return renewed, err
	}
	s, err := o.judge(func(l fsm.Ledger, s fsm.State, now time.Duration) (fsm.Ledger, error) {
		return l.Renew(s, renewal, now)
	})
	var refusal *api.Error
	switch {
	case errors.As(err, &refusal):
		r.counts.refused.Add(1)
		return renewed, refusal
	case err != nil:
		return renewed, err
	}
	r.counts.granted.Add(1)
	return api.Renewed{Index: s.Index(), LeaseMS: r.cfg.Leases.Lease.Milliseconds()}, nil
}

// Report tells the leader how far the source of a move is. From any server. The error is NOT_FOUND, WRONG_PHASE,
// SESSION_EXPIRED, FORBIDDEN, INVALID, NO_LEADER, TIMEOUT, or UNAVAILABLE when this server stops.
func (r *Registry) Report(ctx context.Context, report api.Report) error {
	switch {
	case len(report.Session) > fsm.MaxRandom:
		return tooLong("session", len(report.Session), fsm.MaxRandom)
	case len(report.Move) > scope.MaxNodeIDLen:
		return tooLong("move", len(report.Move), scope.MaxNodeIDLen)
	}
	return r.askOffice(ctx, "reporting a move's progress", func(ctx context.Context, l leader) error {
		if l.self {
			return r.reportHere(report)
		}
		return r.askJSON(ctx, l, peer.KindReport, report, nil)
	})
}

// reportHere is Report on the leader. It confirms nothing: a report to a leader that is none any more is lost, and the next
// one comes soon.
func (r *Registry) reportHere(report api.Report) error {
	o := r.office.Load()
	if o == nil {
		return &definite{errNotInOffice}
	}
	_, err := o.judge(func(l fsm.Ledger, s fsm.State, now time.Duration) (fsm.Ledger, error) {
		return l.Report(s, report, now)
	})
	return err
}

// Leading returns what the leader counts. From any server; it may be a moment old. Where no leader is known none is waited
// for: it only adds to what a local read shows, which a server that is cut off answers at once. The error is NO_LEADER,
// TIMEOUT, or UNAVAILABLE when this server stops.
func (r *Registry) Leading(ctx context.Context) (out api.Leading, err error) {
	if _, known := r.leaderNow(); !known {
		return out, &api.Error{Code: api.NoLeader, Detail: fmt.Sprintf("server %q knows no leader, which alone counts that; wait for an election", r.cfg.ID)}
	}
	err = r.askOffice(ctx, "asking what the leader counts", func(ctx context.Context, l leader) error {
		out = api.Leading{Leader: l.id}
		for after, more := "", true; more; {
			page, err := r.leadingPageOf(ctx, l, after)
			if err != nil {
				return err
			}
			if out.Leases = append(out.Leases, page.Leases...); after == "" {
				out.Progress = page.Progress
			}
			if more = len(page.Leases) == leadingPage; more {
				last := page.Leases[len(page.Leases)-1].Session
				if last <= after {
					return &definite{fmt.Errorf("server %q sent the leases up to session %q twice", l.id, after)}
				}
				after = last
			}
		}
		return nil
	})
	return out, err
}

func (r *Registry) leadingPageOf(ctx context.Context, l leader, after string) (page api.Leading, err error) {
	if l.self {
		return r.leadingHere(after)
	}
	body, err := r.askAgain(ctx, l, peer.KindLeading, []byte(after))
	if err == nil {
		err = decodeAnswer(l, body, &page)
	}
	return page, err
}

// leadingHere is the leader's page of the sessions after one.
func (r *Registry) leadingHere(after string) (api.Leading, error) {
	o := r.office.Load()
	if o == nil {
		return api.Leading{}, &definite{errNotInOffice}
	}
	leases, progress, err := o.leading()
	if err != nil {
		return api.Leading{}, err
	}
	first, found := slices.BinarySearchFunc(leases, after, func(s api.LeaseState, id string) int { return strings.Compare(s.Session, id) })
	if found {
		first++
	}
	if after != "" {
		progress = nil
	}
	return api.Leading{Leader: r.cfg.ID, Leases: leases[first:min(first+leadingPage, len(leases))], Progress: progress}, nil
}

// askOffice repeats what only the leader can do, as onLeader does; each of it may be done twice.
func (r *Registry) askOffice(ctx context.Context, doing string, do func(context.Context, leader) error) error {
	if r.closing.Load() {
		return r.stopping()
	}
	ctx, cancel := r.bound(ctx)
	defer cancel()
	return r.onLeader(ctx, doing, do)
}

func tooLong(what string, got, limit int) *api.Error {
	return &api.Error{Code: api.Invalid, Detail: fmt.Sprintf("the %s has %d bytes, the limit is %d", what, got, limit)}
}

// askJSON is one call to the leader in JSON both ways; answer may be nil.
func (r *Registry) askJSON(ctx context.Context, l leader, kind peer.Kind, question, answer any) error {
	payload, err := json.Marshal(question)
	if err != nil {
		return &api.Error{Code: api.Invalid, Detail: fmt.Sprintf("a %v call does not encode: %v", kind, err)}
	}
	body, err := r.askAgain(ctx, l, kind, payload)
	if err != nil || answer == nil {
		return err
	}
	return decodeAnswer(l, body, answer)
}

func decodeAnswer(l leader, body []byte, answer any) error {
	if err := json.Unmarshal(body, answer); err != nil {
		return &definite{fmt.Errorf("server %q sent an answer that does not decode: %w; run the same version on all servers", l.id, err)}
	}
	return nil
}

// serveLeases answers what other servers pass on to the leader.
func (r *Registry) serveLeases(ctx context.Context, from string, kind peer.Kind, payload []byte) []byte {
	answer, err := r.answerLeases(ctx, from, kind, payload)
	if err != nil {
		return reply(err)
	}
	body, err := json.Marshal(answer)
	if err != nil {
		return reply(&definite{err})
	}
	return append([]byte{replyDone}, body...)
}

func (r *Registry) answerLeases(ctx context.Context, from string, kind peer.Kind, payload []byte) (any, error) {
	var renewal api.Renewal
	var report api.Report
	var err error
	switch kind {
	case peer.KindRenew:
		err = json.Unmarshal(payload, &renewal)
	case peer.KindReport:
		err = json.Unmarshal(payload, &report)
	}
	if err != nil {
		return nil, &api.Error{Code: api.Invalid, Detail: fmt.Sprintf("a %v call of server %q does not decode: %v; run the same version on all servers", kind, from, err)}
	}
	switch kind {
	case peer.KindRenew:
		return r.renewHere(ctx, renewal)
	case peer.KindReport:
		return struct{}{}, r.reportHere(report)
	default:
		return r.leadingHere(string(payload))
	}
}
