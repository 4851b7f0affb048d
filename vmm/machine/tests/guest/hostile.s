# What the hostile guests share. RBX is the generator's state (xorshift64), RBP counts down.

.globl hostile_begin, hostile_number, hostile_end

# Handlers that survive anything; then the APIC, then the other two CPUs at R12, then R12 here too.
hostile_begin:
    mov qword ptr [0x14010], r12
    xor esi, esi
    lea rax, [rip + hostile_interrupt]
    xor edx, edx
    call rt_gates
    mov edi, 2
    lea rax, [rip + hostile_nmi]
    call rt_gate
    mov edi, 13
    lea rax, [rip + hostile_gp]
    call rt_gate
    call rt_apic_on
    mov r8d, 1
2:  mov r11d, r8d
    lea rax, [rip + hostile_cpu]
    call rt_start_ap
3:  cmp qword ptr [r15 + 16 * 128], r11
    jne 3b
    inc r8d
    cmp r8d, 3
    jne 2b
hostile_cpu:
    mov r12, qword ptr [0x14010]
    inc qword ptr [r15 + 16 * 128]
    # Together: a start-up IPI of one that has begun would start one that waits for CPU 0's elsewhere.
2:  cmp qword ptr [r15 + 16 * 128], 3
    jne 2b
    movabs rbx, 0x9e3779b97f4a7c15      # a seed for each CPU
    lea rax, [r13 + 1]
    imul rbx, rax
    mov ebp, 1500
    sti
    jmp r12

# RAX becomes the next number, masked so that small ones are as likely as large ones.
hostile_number:
    mov rax, rbx
    shl rax, 13
    xor rbx, rax
    mov rax, rbx
    shr rax, 7
    xor rbx, rax
    mov rax, rbx
    shl rax, 17
    xor rbx, rax
    mov ecx, ebx
    and ecx, 56
    mov rax, rbx
    shr rax, cl
    ret

hostile_interrupt:
    push rax
    push rcx
    push rdx
    call rt_eoi
    pop rdx
    pop rcx
    pop rax
hostile_nmi:
    iretq

# RDMSR and WRMSR have two bytes: goes on after them.
hostile_gp:
    add rsp, 8
    add qword ptr [rsp], 2
    iretq

# CPU 0 rings when it is through; the others are left as they are.
hostile_end:
    test r13d, r13d
    jnz rt_rest
    call rt_ring
    jmp rt_rest
