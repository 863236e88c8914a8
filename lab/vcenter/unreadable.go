package main

import (
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// setReadable takes a VM's configuration away, as a datastore does that no host reaches, or gives it back. The VM runs on.
func (v *vcenter) setReadable(vm *simulator.VirtualMachine, readable bool) {
	state := types.VirtualMachineConnectionStateConnected
	v.mutex.Lock()
	if readable {
		delete(v.unreadable, vm.Self)
	} else {
		v.unreadable[vm.Self] = true
		state = types.VirtualMachineConnectionStateInaccessible
	}
	v.mutex.Unlock()
	ctx := v.context()
	ctx.WithLock(vm, func() {
		ctx.Update(vm, []types.PropertyChange{{Name: "runtime.connectionState", Val: state}})
	})
}

func (v *vcenter) isUnreadable(ref types.ManagedObjectReference) bool {
	v.mutex.Lock()
	defer v.mutex.Unlock()
	return v.unreadable[ref]
}

func (v *vcenter) hasUnreadable() bool {
	v.mutex.Lock()
	defer v.mutex.Unlock()
	return len(v.unreadable) > 0
}

// hideConfig leaves out what vCenter cannot read.
func (v *vcenter) hideConfig(found []types.ObjectContent) {
	for index := range found {
		if !v.isUnreadable(found[index].Obj) {
			continue
		}
		kept := found[index].PropSet[:0]
		for _, property := range found[index].PropSet {
			if !strings.HasPrefix(property.Name, "config") {
				kept = append(kept, property)
			}
		}
		found[index].PropSet = kept
	}
}

// RetrievePropertiesEx is the simulator's, but for VMs whose configuration was taken away.
func (c *streamCalls) RetrievePropertiesEx(ctx *simulator.Context, req *types.RetrievePropertiesEx) soap.HasFault {
	body := c.collector(ctx).RetrievePropertiesEx(ctx, req)
	if answer, ok := body.(*methods.RetrievePropertiesExBody); ok && answer.Res != nil && answer.Res.Returnval != nil {
		c.v.hideConfig(answer.Res.Returnval.Objects)
	}
	return body
}

// ContinueRetrievePropertiesEx is the simulator's, as above.
func (c *streamCalls) ContinueRetrievePropertiesEx(ctx *simulator.Context, req *types.ContinueRetrievePropertiesEx) soap.HasFault {
	body := c.collector(ctx).ContinueRetrievePropertiesEx(ctx, req)
	if answer, ok := body.(*methods.ContinueRetrievePropertiesExBody); ok && answer.Res != nil {
		c.v.hideConfig(answer.Res.Returnval.Objects)
	}
	return body
}
