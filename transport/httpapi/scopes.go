package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/view"
	"github.com/scope-registry/scope-registry/scope"
)

func (s *server) scopeRoutes() {
	register(s, "route", http.MethodGet, "/v1/route", "The verdict for a key", s.route)
	register(s, "explain", http.MethodGet, "/v1/explain", "Why a key routes as it does", s.explain)
	register(s, "listScopes", http.MethodGet, "/v1/scopes", "Scopes in the order of prefix bytes", s.listScopes)
	register(s, "getScope", http.MethodGet, "/v1/scope", "One scope", s.getScope)
	register(s, "declareScope", http.MethodPut, "/v1/scope", "Declare a scope, or change its options", s.declareScope)
	register(s, "retireScope", http.MethodDelete, "/v1/scope", "Retire a scope", s.retireScope)
	register(s, "releaseScope", http.MethodPost, "/v1/release", "Serve a scope although the cluster holds since a restore", s.release)
	register(s, "apply", http.MethodPost, "/v1/apply", "Many nodes and scopes, all or nothing", s.applyBatch)
}

type routeInput struct {
	ReadParams
	Key string `query:"key" doc:"Text form of bytes"`
	As  string `query:"as" doc:"Node that asks; without it there is no verdict"`
}

// asked checks what is asked about a key and reads the state that answers.
func (s *server) asked(ctx context.Context, in *routeInput) (st fsm.State, key []byte, err error) {
	if !given(ctx, "key") {
		return st, nil, invalid("the query names no key; add ?key=, also for the empty one")
	}
	if key, err = parseKey(in.Key); err != nil {
		return st, nil, err
	}
	if err := checkNodes("as", in.As); err != nil {
		return st, nil, err
	}
	st, err = s.read(ctx, in.ReadParams)
	return st, key, err
}

type routeOutput struct{ Body api.Route }

func (s *server) route(ctx context.Context, in *routeInput) (*routeOutput, error) {
	st, key, err := s.asked(ctx, in)
	if err != nil {
		return nil, err
	}
	return &routeOutput{view.Route(st, key, scope.NodeID(in.As))}, nil
}

type explainOutput struct{ Body api.Explain }

func (s *server) explain(ctx context.Context, in *routeInput) (*explainOutput, error) {
	st, key, err := s.asked(ctx, in)
	if err != nil {
		return nil, err
	}
	out, changed := view.Explain(st, key, scope.NodeID(in.As), nowMS())
	if out.Scope == nil {
		return &explainOutput{out}, nil
	}
	view.ExplainNodes(st, key, &out, func() (*api.Leading, error) { return s.leading(ctx, in.Patience) })
	status, err := s.reg.Status(ctx, false)
	if err != nil {
		out.Why += fmt.Sprintf(" The other servers could not be asked (%v).", err)
		return &explainOutput{out}, nil
	}
	out.Lagging = view.Lagging(status.Members, changed)
	return &explainOutput{out}, nil
}

type listScopesInput struct {
	ReadParams
	Under      string `query:"under" doc:"Only prefixes that start with this one"`
	After      string `query:"after" doc:"Only prefixes after this one: the next of the page before"`
	Limit      int    `query:"limit" doc:"1000 if not given, at most 10000"`
	NoFallback bool   `query:"no_fallback" doc:"Only scopes that take no writes while their writer is down"`
	Node       string `query:"node" doc:"Only scopes whose writer, fallback or owner this is"`
}

type scopesOutput struct {
	Body struct {
		Index  uint64      `json:"index"`
		Scopes []api.Scope `json:"scopes"`
		Next   string      `json:"next,omitempty" doc:"Give it as after for the next page; empty: there is none"`
	}
}

func (s *server) listScopes(ctx context.Context, in *listScopesInput) (*scopesOutput, error) {
	under, err1 := parsePrefix("under", in.Under)
	after, err2 := parsePrefix("after", in.After)
	limit, err3 := pageLimit(in.Limit)
	if err := errors.Join(err1, err2, err3, checkNodes("node", in.Node)); err != nil {
		return nil, err
	}
	st, err := s.read(ctx, in.ReadParams)
	if err != nil {
		return nil, err
	}
	var out scopesOutput
	out.Body.Index, out.Body.Scopes = st.Index(), []api.Scope{}
	node := scope.NodeID(in.Node)
	for sc := range st.Scopes().Under(under, after) {
		if in.NoFallback && sc.Fallback != "" {
			continue
		}
		if node != "" && sc.Writer != node && sc.Fallback != node && sc.Owner != node {
			continue
		}
		if len(out.Body.Scopes) == limit {
			out.Body.Next = out.Body.Scopes[limit-1].Prefix
			break
		}
		out.Body.Scopes = append(out.Body.Scopes, view.Scope(st, sc))
	}
	return &out, nil
}

type getScopeInput struct {
	ReadParams
	Prefix string `query:"prefix" doc:"Text form of bytes"`
}

type scopeOutput struct{ Body api.Scope }

func (s *server) getScope(ctx context.Context, in *getScopeInput) (*scopeOutput, error) {
	p, err := subject(ctx, in.Prefix)
	if err != nil {
		return nil, err
	}
	st, err := s.read(ctx, in.ReadParams)
	if err != nil {
		return nil, err
	}
	sc, ok := st.Scopes().Get(p)
	if !ok {
		return nil, &api.Error{Code: api.NotFound, Index: st.Index(),
			Detail: fmt.Sprintf("no scope is declared with exactly the prefix %q; the list of scopes has those that are", p)}
	}
	out := view.Scope(st, sc)
	out.Settled = view.Settled(st, sc, func() (*api.Leading, error) { return s.leading(ctx, in.Patience) })
	return &scopeOutput{out}, nil
}

type declareInput struct {
	Mutation
	Prefix  string `query:"prefix" doc:"Text form of bytes"`
	IfMatch string `header:"If-Match" doc:"Refuse unless the scope has this epoch"`
	Body    api.Declare
}

func (s *server) declareScope(ctx context.Context, in *declareInput) (*appliedBody, error) {
	if _, err := subject(ctx, in.Prefix); err != nil {
		return nil, err
	}
	epoch, err := ifMatch(in.IfMatch)
	if err != nil {
		return nil, err
	}
	if in.Body.Prefix != "" && in.Body.Prefix != in.Prefix {
		return nil, invalid("the body's prefix %s is not the query's %s; leave it out of the body", shown(in.Body.Prefix), shown(in.Prefix))
	}
	in.Body.Prefix = in.Prefix
	cmd, err := declareOf("", in.Body)
	if err != nil {
		return nil, err
	}
	cmd.ExpectedEpoch = epoch
	return s.apply(ctx, in.Mutation, cmd)
}

// declareOf turns a declare into its command; at says where it stands in the
// body of a batch.
func declareOf(at string, d api.Declare) (*fsm.Declare, error) {
	p, err := parsePrefix(at+"prefix", d.Prefix)
	if err != nil {
		return nil, err
	}
	if err := checkNode(at+"writer", d.Writer); err != nil {
		return nil, err
	}
	if err := checkNodes(at+"fallback", d.Fallback); err != nil {
		return nil, err
	}
	if err := checkFenced(at, d.SourceFenced, d.SourceFencedIdentity); err != nil {
		return nil, err
	}
	if _, err := scope.ParseFailover(d.Failover); err != nil {
		return nil, invalid("%sfailover: %v", at, err)
	}
	if _, err := scope.ParseLease(d.Lease); err != nil {
		return nil, invalid("%slease: %v", at, err)
	}
	return &fsm.Declare{Prefix: p.Bytes(), Writer: d.Writer, Fallback: d.Fallback, Failover: d.Failover,
		Lease: d.Lease, SourceFenced: d.SourceFenced, SourceFencedIdentity: d.SourceFencedIdentity}, nil
}

type retireInput struct {
	Mutation
	Prefix       string `query:"prefix" doc:"Text form of bytes"`
	IfMatch      string `header:"If-Match" doc:"Refuse unless the scope has this epoch"`
	SourceFenced string `query:"source_fenced" doc:"The admin's word that this node, the owner, is off; then no tombstone stays"`
	Identity     string `query:"source_fenced_identity" doc:"Of the data that the word is about; empty if that node never had a session"`
}

func (s *server) retireScope(ctx context.Context, in *retireInput) (*appliedBody, error) {
	p, err := subject(ctx, in.Prefix)
	if err != nil {
		return nil, err
	}
	epoch, err := ifMatch(in.IfMatch)
	if err != nil {
		return nil, err
	}
	if err := checkFenced("", in.SourceFenced, in.Identity); err != nil {
		return nil, err
	}
	return s.apply(ctx, in.Mutation, &fsm.Retire{Prefix: p.Bytes(), ExpectedEpoch: epoch, SourceFenced: in.SourceFenced, SourceFencedIdentity: in.Identity})
}

type batchInput struct {
	Mutation
	Body api.Batch
}

type batchOutput struct{ Body applying }

// applying is described as the one thing or the other that it is.
type applying api.Applying

// Schema implements huma.SchemaProvider.
func (applying) Schema(r huma.Registry) *huma.Schema {
	plan := &huma.Schema{Type: huma.TypeObject, AdditionalProperties: false, Required: []string{"plan"},
		Properties: map[string]*huma.Schema{"plan": r.Schema(reflect.TypeFor[api.Plan](), true, "Plan")}}
	return &huma.Schema{OneOf: []*huma.Schema{r.Schema(reflect.TypeFor[api.Applied](), true, "Applied"), plan}}
}

func (s *server) applyBatch(ctx context.Context, in *batchInput) (*batchOutput, error) {
	cmd, err := batchOf(in.Body)
	if err != nil {
		return nil, err
	}
	if in.Body.DryRun {
		st, err := s.read(ctx, ReadParams{Consistency: "linearizable"})
		if err != nil {
			return nil, err
		}
		plan, err := st.Plan(cmd)
		if err != nil {
			return nil, err
		}
		return &batchOutput{applying{Plan: view.Plan(st.Index(), plan)}}, nil
	}
	res, err := s.propose(ctx, in.Mutation, cmd)
	if err != nil {
		return nil, err
	}
	done := view.Applied(res)
	return &batchOutput{applying{Applied: &done}}, nil
}

func batchOf(b api.Batch) (*fsm.Batch, error) {
	if n := len(b.Nodes) + len(b.Scopes); n > MaxItems {
		return nil, &api.Error{Code: api.Limit, Detail: fmt.Sprintf("the batch has %d nodes and scopes, the limit is %d; send it in parts, which is then not atomic", n, MaxItems)}
	}
	cmd := &fsm.Batch{Prune: b.Prune}
	if b.IfIndex != nil {
		cmd.CheckIndex, cmd.IfIndex = true, *b.IfIndex
	}
	for i, n := range b.Nodes {
		if err := checkNode(fmt.Sprintf("nodes[%d].id", i), n.ID); err != nil {
			return nil, err
		}
		cmd.Nodes = append(cmd.Nodes, &fsm.SetNode{Id: n.ID, Addr: n.Addr})
	}
	for i, d := range b.Scopes {
		decl, err := declareOf(fmt.Sprintf("scopes[%d].", i), d)
		if err != nil {
			return nil, err
		}
		cmd.Scopes = append(cmd.Scopes, decl)
	}
	return cmd, nil
}
