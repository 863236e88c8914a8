package main

import (
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	vim "github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vsan"
	"github.com/vmware/govmomi/vsan/methods"
	"github.com/vmware/govmomi/vsan/types"
)

// What vSAN's health may be set to. Absent is a vCenter in which nobody serves its path; garbled one whose answer is
// of no type that a client knows.
const (
	vsanGreen   = "green"
	vsanYellow  = "yellow"
	vsanRed     = "red"
	vsanAbsent  = "absent"
	vsanGarbled = "garbled"
)

const garbledAnswer = `<Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"><Body>
<VsanQueryVcClusterHealthSummaryResponse xmlns="urn:vsan"><returnval xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
xsi:type="Nonsense"/></VsanQueryVcClusterHealthSummaryResponse></Body></Envelope>`

// vsanHealth is vSAN's health service, of which we answer one method.
type vsanHealth struct {
	Self vim.ManagedObjectReference
	v    *vcenter

	mutex sync.Mutex
	state string
}

func newVsanHealth(v *vcenter) *vsanHealth {
	self := vim.ManagedObjectReference{Type: "VsanVcClusterHealthSystem", Value: "vsan-cluster-health-system"}
	h := &vsanHealth{Self: self, v: v, state: vsanGreen}
	registry := simulator.NewRegistry()
	registry.Namespace, registry.Path = vsan.Namespace, vsan.Path
	// Its calls are counted, delayed and refused as all others are; sessions are vCenter's own.
	registry.Handler = v.route
	registry.Put(h)
	v.service.RegisterSDK(registry)
	return h
}

// answer in the simulator's place, if it is to be none of the simulator's answers.
func (h *vsanHealth) answer(w http.ResponseWriter, r *http.Request) bool {
	state := h.now()
	switch {
	case r.URL.Path != vsan.Path:
		return false
	case state == vsanAbsent:
		http.NotFound(w, r)
	case state == vsanGarbled:
		_, _ = io.WriteString(w, garbledAnswer)
	}
	return state == vsanAbsent || state == vsanGarbled
}

func (h *vsanHealth) Reference() vim.ManagedObjectReference { return h.Self }

func (h *vsanHealth) now() string {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	return h.state
}

func (h *vsanHealth) set(state string) error {
	switch state {
	case vsanGreen, vsanYellow, vsanRed, vsanAbsent, vsanGarbled:
	default:
		return fmt.Errorf("vsan_health: there is no %q", state)
	}
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.state = state
	return nil
}

// VsanQueryVcClusterHealthSummary tells a cluster's health, and nothing of what it follows from.
func (h *vsanHealth) VsanQueryVcClusterHealthSummary(_ *simulator.Context, req *types.VsanQueryVcClusterHealthSummary) soap.HasFault {
	body := new(methods.VsanQueryVcClusterHealthSummaryBody)
	if req.Cluster == nil {
		body.Fault_ = simulator.Fault("", &vim.InvalidArgument{InvalidProperty: "cluster"})
		return body
	}
	if _, isCluster := h.v.registry.Get(*req.Cluster).(*simulator.ClusterComputeResource); !isCluster {
		body.Fault_ = simulator.Fault("", &vim.ManagedObjectNotFound{Obj: *req.Cluster})
		return body
	}
	words := map[string]string{vsanYellow: "Network latency is high", vsanRed: "2 objects have lost a replica"}
	state := h.now()
	body.Res = &types.VsanQueryVcClusterHealthSummaryResponse{Returnval: types.VsanClusterHealthSummary{
		Cluster: req.Cluster, OverallHealth: state, OverallHealthDescription: words[state],
	}}
	return body
}
