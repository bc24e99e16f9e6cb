package httpapi

import (
	"context"
	"fmt"
	"net/http"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/view"
	"github.com/scope-registry/scope-registry/scope"
)

func (s *server) nodeRoutes() {
	register(s, "listNodes", http.MethodGet, "/v1/nodes", "All nodes, by id", s.listNodes)
	register(s, "getNode", http.MethodGet, "/v1/nodes/{id}", "One node", s.getNode)
	register(s, "setNode", http.MethodPut, "/v1/nodes/{id}", "Declare a node or change its address", s.setNode)
	register(s, "removeNode", http.MethodDelete, "/v1/nodes/{id}", "Remove a node that nothing names", s.removeNode)
	register(s, "fenceNode", http.MethodPost, "/v1/nodes/{id}/fence", "The admin's word that a node is off: its next session may be of other data", s.fenceNode)
}

type nodesOutput struct {
	Body struct {
		Index uint64          `json:"index"`
		Nodes []api.NodeState `json:"nodes"`
	}
}

func (s *server) listNodes(ctx context.Context, in *struct{ ReadParams }) (*nodesOutput, error) {
	st, err := s.read(ctx, in.ReadParams)
	if err != nil {
		return nil, err
	}
	var out nodesOutput
	out.Body.Index, out.Body.Nodes = st.Index(), make([]api.NodeState, 0, st.NodesLen())
	for n := range st.Nodes() {
		out.Body.Nodes = append(out.Body.Nodes, view.NodeState(n))
	}
	return &out, nil
}

type getNodeInput struct {
	ReadParams
	ID string `path:"id"`
}

type nodeOutput struct{ Body api.NodeState }

func (s *server) getNode(ctx context.Context, in *getNodeInput) (*nodeOutput, error) {
	if err := checkNode("id", in.ID); err != nil {
		return nil, err
	}
	st, err := s.read(ctx, in.ReadParams)
	if err != nil {
		return nil, err
	}
	n, ok := st.Node(scope.NodeID(in.ID))
	if !ok {
		return nil, &api.Error{Code: api.NotFound, Index: st.Index(),
			Detail: fmt.Sprintf("no node %q is declared; the list of nodes has those that are", in.ID)}
	}
	return &nodeOutput{view.NodeState(n)}, nil
}

type setNodeInput struct {
	Mutation
	ID   string `path:"id"`
	Body struct {
		ID   string `json:"id,omitempty" doc:"That of the path, if given"`
		Addr string `json:"addr" doc:"host:port that MISDIRECTED names"`
	}
}

func (s *server) setNode(ctx context.Context, in *setNodeInput) (*appliedBody, error) {
	if err := checkNode("id", in.ID); err != nil {
		return nil, err
	}
	if in.Body.ID != "" && in.Body.ID != in.ID {
		return nil, invalid("the body's id %s is not the path's %q; leave it out of the body", shown(in.Body.ID), in.ID)
	}
	return s.apply(ctx, in.Mutation, &fsm.SetNode{Id: in.ID, Addr: in.Body.Addr})
}

type removeNodeInput struct {
	Mutation
	ID           string `path:"id"`
	SourceFenced string `query:"source_fenced" doc:"The admin's word that this node is off; needed while the cluster holds and the node has not met the incarnation"`
	Identity     string `query:"source_fenced_identity" doc:"Of the data that the word is about; empty if that node never had a session"`
}

func (s *server) removeNode(ctx context.Context, in *removeNodeInput) (*appliedBody, error) {
	if err := checkNode("id", in.ID); err != nil {
		return nil, err
	}
	if err := checkFenced("", in.SourceFenced, in.Identity); err != nil {
		return nil, err
	}
	return s.apply(ctx, in.Mutation, &fsm.RemoveNode{Id: in.ID, SourceFenced: in.SourceFenced, SourceFencedIdentity: in.Identity})
}

type fenceInput struct {
	Mutation
	ID   string `path:"id"`
	Body struct {
		Identity string `json:"identity" doc:"Of the data that the node last held a session with, which is off"`
	}
}

func (s *server) fenceNode(ctx context.Context, in *fenceInput) (*appliedBody, error) {
	if err := checkNode("id", in.ID); err != nil {
		return nil, err
	}
	if err := checkRandom("identity", in.Body.Identity); err != nil {
		return nil, err
	}
	return s.apply(ctx, in.Mutation, &fsm.FenceNode{Node: in.ID, Identity: in.Body.Identity})
}
