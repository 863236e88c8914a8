package main

import (
	"net/http"
	"reflect"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// route decides who answers a call: a rule that is set, one of ours, or (nil) the simulator.
//
// The simulator prefers what the session's registry has at a call's object over what is given here, so a call that
// is ours is pointed at an object that no registry has.
func (v *vcenter) route(ctx *simulator.Context, method *simulator.Method) (mo.Reference, types.BaseMethodFault) {
	v.calls.add(method.Name)
	v.remember(ctx.Session)
	if wrong := v.refuseStranger(ctx, method); wrong != nil {
		return nil, wrong
	}
	if method.Name == "Logout" && ctx.Session != nil {
		v.streams.endAll(ctx.Session.Key + "/")
		v.mutex.Lock()
		delete(v.sessions, ctx.Session.Key)
		v.mutex.Unlock()
	}
	host := v.hostNameOf(method.This)
	if wrong := v.people.refuse(ctx.Session, method); wrong != nil {
		return nil, wrong
	}
	if v.isUnreadable(method.This) {
		// Nothing can be done to a VM whose files cannot be reached.
		return nil, new(types.InvalidState)
	}
	time.Sleep(v.rules.callDelay(method.Name, host))
	if injected := v.rules.fault(method.Name, host, atCall); injected != nil {
		if injected.isDrop() {
			panic(http.ErrAbortHandler)
		}
		return nil, injected.make(method.This)
	}
	ours := v.oursFor(method)
	if ours != nil {
		method.This = types.ManagedObjectReference{Type: method.This.Type, Value: "ours:" + method.This.Value}
		return ours, nil
	}
	return nil, nil
}

func (v *vcenter) oursFor(method *simulator.Method) mo.Reference {
	ref := method.This
	switch method.Name {
	case "InstantClone_Task", "PowerOffVM_Task", "PowerOnVM_Task", "ReconfigVM_Task", "Destroy_Task":
		if vm := v.machine(ref); vm != nil {
			return &machineCalls{Self: ref, v: v, vm: vm}
		}
	case "CheckInstantClone_Task":
		return &checkCalls{Self: ref, v: v}
	case "CustomizeGuest_Task", "StartGuestNetwork_Task", "AbortCustomization_Task":
		return &customizeCalls{Self: ref, v: v}
	case "StartProgramInGuest", "ListProcessesInGuest":
		return &processCalls{Self: ref, v: v}
	case "WaitForUpdatesEx", "WaitForUpdates", "CancelWaitForUpdates", "DestroyPropertyCollector":
		return &streamCalls{Self: ref, v: v}
	case "RetrievePropertiesEx", "ContinueRetrievePropertiesEx":
		if v.hasUnreadable() {
			return &streamCalls{Self: ref, v: v}
		}
	}
	return nil
}

func (v *vcenter) hostNameOf(ref types.ManagedObjectReference) string {
	if ref.Type != "VirtualMachine" {
		return ""
	}
	if host := v.hostOf(v.machine(ref)); host != nil {
		return host.Name
	}
	return ""
}

// refuseStranger keeps those who have not logged in from reading: the simulator lets them.
func (v *vcenter) refuseStranger(ctx *simulator.Context, method *simulator.Method) types.BaseMethodFault {
	if ctx.Session != nil {
		return nil
	}
	open := map[string]bool{"ServiceInstance": true, "SessionManager": true, "PropertyCollector": true}
	for _, ref := range readBy(method.Body) {
		if !open[ref.Type] {
			return &types.NotAuthenticated{NoPermission: types.NoPermission{Object: &ref, PrivilegeId: "System.View"}}
		}
	}
	return nil
}

// readBy lists the objects that a call reads properties of.
func readBy(body any) []types.ManagedObjectReference {
	var specs []types.PropertyFilterSpec
	switch asked := body.(type) {
	case *types.RetrievePropertiesEx:
		specs = asked.SpecSet
	case *types.RetrieveProperties:
		specs = asked.SpecSet
	default:
		if reflect.TypeOf(body).Elem().Name() == "Fetch" {
			this := reflect.ValueOf(body).Elem().FieldByName("This").Interface().(types.ManagedObjectReference)
			return []types.ManagedObjectReference{this}
		}
		return nil
	}
	var found []types.ManagedObjectReference
	for _, spec := range specs {
		for _, object := range spec.ObjectSet {
			found = append(found, object.Obj)
		}
	}
	return found
}

func (v *vcenter) remember(session *simulator.Session) {
	if session == nil {
		return
	}
	v.mutex.Lock()
	defer v.mutex.Unlock()
	if v.sessions[session.Key] == nil {
		own := *session
		v.sessions[session.Key] = &own
	}
}

// endSessions logs everybody out, as a timeout or a restart does.
func (v *vcenter) endSessions() {
	v.mutex.Lock()
	all := v.sessions
	v.sessions = map[string]*simulator.Session{}
	v.mutex.Unlock()
	v.streams.endAll("")
	manager := v.registry.SessionManager()
	for _, session := range all {
		ctx := v.context()
		ctx.Session = session
		manager.Logout(ctx, nil)
	}
}
