//! The programs: one operator each, with what feeds it.

/// A program, and the recipes that are known not to take all of it: a part of the reason.
#[derive(Debug)]
pub struct Case {
    pub name: &'static str,
    pub text: &'static str,
    pub refused: &'static [(&'static str, &'static str)],
}

macro_rules! programs {
    ($($name:ident $text:literal $(; $($recipe:literal $why:literal),*)?)*) => {
        pub static PROGRAMS: &[Case] = &[$(Case { name: stringify!($name), text: concat!("program {\n", $text, "\n}"),
            refused: &[$($(($recipe, $why)),*)?] }),*];
    };
}

programs! {
    conv "%x : f32[1, 16, 8, 8] = input
        %w : f32[8, 16, 3, 3] = constant \"w\"
        %b : f32[8] = constant \"b\"
        %y : f32[1, 8, 8, 8] = aten.conv2d.default(%x, %w, %b, padding=[1, 1])
        return %y"
    conv_stride "%x : f32[2, 3, 9, 11] = input
        %w : f32[8, 3, 3, 3] = constant \"w\"
        %y : f32[2, 8, 5, 5] = aten.conv2d.default(%x, %w, stride=[2, 2], padding=[1, 0])
        return %y"
    conv_pointwise "%x : f32[1, 64, 6, 6] = input
        %w : f32[32, 64, 1, 1] = constant \"w\"
        %b : f32[32] = constant \"b\"
        %y : f32[1, 32, 6, 6] = aten.conv2d.default(%x, %w, %b)
        return %y"
    conv_relu "%x : f32[1, 3, 8, 8] = input
        %w : f32[8, 3, 3, 3] = constant \"w\"
        %b : f32[8] = constant \"b\"
        %c : f32[1, 8, 8, 8] = aten.conv2d.default(%x, %w, %b, padding=[1, 1])
        %y : f32[1, 8, 8, 8] = aten.relu.default(%c)
        return %y"
    conv_grouped "%x : f32[1, 8, 6, 6] = input
        %w : f32[8, 4, 3, 3] = constant \"w\"
        %y : f32[1, 8, 6, 6] = aten.conv2d.default(%x, %w, padding=[1, 1], groups=2)
        return %y"
    conv_dilated "%x : f32[1, 8, 9, 9] = input
        %w : f32[8, 8, 3, 3] = constant \"w\"
        %y : f32[1, 8, 5, 5] = aten.conv2d.default(%x, %w, dilation=[2, 2])
        return %y"
    conv_single "%x : f32[1, 32, 6, 6] = input
        %w : f32[1, 32, 1, 1] = constant \"w\"
        %b : f32[1] = constant \"b\" [1.5]
        %y : f32[1, 1, 6, 6] = aten.conv2d.default(%x, %w, %b)
        return %y"
    transposed_single "%x : f32[1, 8, 5, 5] = input
        %w : f32[8, 1, 3, 3] = constant \"w\"
        %b : f32[1] = constant \"b\" [1.5]
        %y : f32[1, 1, 7, 7] = aten.conv_transpose2d.input(%x, %w, %b)
        return %y"
    linear_single "%x : f32[4, 8] = input
        %w : f32[1, 8] = constant \"w\"
        %b : f32[1] = constant \"b\" [1.5]
        %y : f32[4, 1] = aten.linear.default(%x, %w, %b)
        return %y"
    conv_line "%x : f32[1, 8, 16] = input
        %w : f32[4, 8, 3] = constant \"w\"
        %b : f32[4] = constant \"b\"
        %y : f32[1, 4, 16] = aten.conv1d.default(%x, %w, %b, padding=[1])
        return %y"
    depthwise "%x : f32[1, 8, 8, 8] = input
        %w : f32[8, 1, 3, 3] = constant \"w\"
        %b : f32[8] = constant \"b\"
        %y : f32[1, 8, 8, 8] = aten.conv2d.default(%x, %w, %b, padding=[1, 1], groups=8)
        return %y"
    transposed "%x : f32[1, 8, 5, 5] = input
        %w : f32[8, 4, 3, 3] = constant \"w\"
        %b : f32[4] = constant \"b\"
        %y : f32[1, 4, 10, 10] = aten.conv_transpose2d.input(%x, %w, %b, stride=[2, 2], padding=[1, 1], output_padding=[1, 1])
        return %y"
    linear "%x : f32[4, 64] = input
        %w : f32[16, 64] = constant \"w\"
        %b : f32[16] = constant \"b\"
        %y : f32[4, 16] = aten.linear.default(%x, %w, %b)
        return %y"
    linear_narrow "%x : f32[4, 20] = input
        %w : f32[16, 20] = constant \"w\"
        %b : f32[16] = constant \"b\"
        %y : f32[4, 16] = aten.linear.default(%x, %w, %b)
        return %y"
    linear_rank3 "%x : f32[2, 3, 32] = input
        %w : f32[16, 32] = constant \"w\"
        %y : f32[2, 3, 16] = aten.linear.default(%x, %w)
        return %y"
    matmul "%x : f32[2, 4, 16] = input
        %z : f32[2, 16, 8] = input
        %y : f32[2, 4, 8] = aten.matmul.default(%x, %z)
        return %y"
    add "%x : f32[1, 4, 6, 6] = input
        %z : f32[1, 4, 6, 6] = input
        %y : f32[1, 4, 6, 6] = aten.add.Tensor(%x, %z)
        return %y"
    add_constant "%x : f32[1, 4, 6, 6] = input
        %z : f32[4, 1, 1] = constant \"z\"
        %y : f32[1, 4, 6, 6] = aten.add.Tensor(%x, %z)
        return %y"
    add_scalar "%x : f32[1, 4, 6, 6] = input
        %y : f32[1, 4, 6, 6] = aten.add.Scalar(%x, 0.75)
        return %y"
    sub "%x : f32[2, 8] = input
        %z : f32[2, 8] = input
        %y : f32[2, 8] = aten.sub.Tensor(%x, %z)
        return %y"
    mul "%x : f32[2, 8] = input
        %z : f32[2, 8] = input
        %y : f32[2, 8] = aten.mul.Tensor(%x, %z)
        return %y"
    mul_scalar "%x : f32[2, 8] = input
        %y : f32[2, 8] = aten.mul.Scalar(%x, -1.5)
        return %y"
    maximum "%x : f32[2, 8] = input
        %z : f32[2, 8] = input
        %y : f32[2, 8] = aten.maximum.default(%x, %z)
        return %y"
    cat "%x : f32[1, 4, 6, 6] = input
        %z : f32[1, 3, 6, 6] = input
        %y : f32[1, 7, 6, 6] = aten.cat.default([%x, %z], 1)
        return %y"
    stack "%x : f32[4, 6] = input
        %z : f32[4, 6] = input
        %y : f32[4, 2, 6] = aten.stack.default([%x, %z], 1)
        return %y"
    softmax "%x : f32[2, 4, 16] = input
        %y : f32[2, 4, 16] = aten.softmax.int(%x, -1)
        return %y"
    softmax_channels "%x : f32[1, 5, 4, 4] = input
        %y : f32[1, 5, 4, 4] = aten.softmax.int(%x, 1)
        return %y"
    log_softmax "%x : f32[2, 16] = input
        %y : f32[2, 16] = aten.log_softmax.int(%x, -1)
        return %y"
    layer_norm "%x : f32[2, 4, 16] = input
        %w : f32[16] = constant \"w\"
        %b : f32[16] = constant \"b\"
        %y : f32[2, 4, 16] = aten.layer_norm.default(%x, [16], %w, %b)
        return %y"
    relu "%x : f32[2, 16] = input
        %y : f32[2, 16] = aten.relu.default(%x)
        return %y"
    relu6 "%x : f32[2, 16] = input
        %y : f32[2, 16] = aten.relu6.default(%x)
        return %y"
    hardtanh "%x : f32[2, 16] = input
        %y : f32[2, 16] = aten.hardtanh.default(%x, -0.5, 0.5)
        return %y"
    gelu "%x : f32[2, 16] = input
        %y : f32[2, 16] = aten.gelu.default(%x)
        return %y"
    sigmoid "%x : f32[2, 16] = input
        %y : f32[2, 16] = aten.sigmoid.default(%x)
        return %y"
    hardsigmoid "%x : f32[2, 16] = input
        %y : f32[2, 16] = aten.hardsigmoid.default(%x)
        return %y"
    hardswish "%x : f32[2, 16] = input
        %y : f32[2, 16] = aten.hardswish.default(%x)
        return %y"
    tanh "%x : f32[2, 16] = input
        %y : f32[2, 16] = aten.tanh.default(%x)
        return %y"
    elu "%x : f32[2, 16] = input
        %y : f32[2, 16] = aten.elu.default(%x)
        return %y"
    leaky_relu "%x : f32[1, 4, 6, 6] = input
        %y : f32[1, 4, 6, 6] = aten.leaky_relu.default(%x, 0.1)
        return %y"
    exp "%x : f32[2, 16] = input
        %y : f32[2, 16] = aten.exp.default(%x)
        return %y"
    neg "%x : f32[2, 16] = input
        %y : f32[2, 16] = aten.neg.default(%x)
        return %y"
    abs "%x : f32[2, 16] = input
        %y : f32[2, 16] = aten.abs.default(%x)
        return %y"
    max_pool "%x : f32[1, 4, 8, 8] = input
        %y : f32[1, 4, 4, 4] = aten.max_pool2d.default(%x, [3, 3], [2, 2], [1, 1])
        return %y"
    avg_pool "%x : f32[1, 4, 8, 8] = input
        %y : f32[1, 4, 4, 4] = aten.avg_pool2d.default(%x, [2, 2])
        return %y"
    adaptive_pool "%x : f32[1, 4, 8, 8] = input
        %y : f32[1, 4, 1, 1] = aten.adaptive_avg_pool2d.default(%x, [1, 1])
        return %y"
    mean "%x : f32[1, 4, 8, 8] = input
        %y : f32[1, 4] = aten.mean.dim(%x, [2, 3])
        return %y"
    sum "%x : f32[2, 4, 8] = input
        %y : f32[2, 4, 1] = aten.sum.dim_IntList(%x, [2], true)
        return %y"
    amax "%x : f32[2, 4, 8] = input
        %y : f32[2, 4] = aten.amax.default(%x, [2])
        return %y"
    argmax "%x : f32[2, 8] = input
        %y : i64[2] = aten.argmax.default(%x, 1)
        return %y"
    nearest "%x : f32[1, 4, 4, 4] = input
        %y : f32[1, 4, 8, 8] = aten.upsample_nearest2d.vec(%x, [8, 8], none)
        return %y"
    bilinear "%x : f32[1, 4, 4, 4] = input
        %y : f32[1, 4, 8, 8] = aten.upsample_bilinear2d.vec(%x, [8, 8], false, none)
        return %y"
    view "%x : f32[2, 4, 6] = input
        %n : f32[2, 4, 6] = aten.neg.default(%x)
        %y : f32[8, 6] = aten.view.default(%n, [8, 6])
        return %y"
    permute "%x : f32[2, 4, 6] = input
        %y : f32[6, 2, 4] = aten.permute.default(%x, [2, 0, 1])
        return %y"
    slice "%x : f32[2, 8, 6] = input
        %y : f32[2, 3, 6] = aten.slice.Tensor(%x, 1, 2, 8, 2)
        return %y"
    select "%x : f32[2, 8, 6] = input
        %y : f32[2, 6] = aten.select.int(%x, 1, -1)
        return %y"
    chunk "%x : f32[2, 8] = input
        %a : f32[2, 4], %b : f32[2, 4] = aten.chunk.default(%x, 2, 1)
        return %b, %a"
    unbind "%x : f32[2, 8] = input
        %a : f32[8], %b : f32[8] = aten.unbind.int(%x)
        return %a, %b"
    expand "%x : f32[2, 1, 6] = input
        %y : f32[2, 3, 6] = aten.expand.default(%x, [2, 3, 6])
        return %y"
    pad "%x : f32[1, 4, 6, 6] = input
        %y : f32[1, 4, 8, 9] = aten.pad.default(%x, [1, 2, 1, 1])
        return %y"
    pixel_shuffle "%x : f32[1, 8, 3, 3] = input
        %y : f32[1, 2, 6, 6] = aten.pixel_shuffle.default(%x, 2)
        return %y"
    flip "%x : f32[2, 4, 6] = input
        %y : f32[2, 4, 6] = aten.flip.default(%x, [1])
        return %y"
    embedding "%x : i64[2, 3] = input
        %w : f32[10, 8] = constant \"w\"
        %y : f32[2, 3, 8] = aten.embedding.default(%w, %x)
        return %y"
    silu "%x : f32[2, 16] = input
        %y : f32[2, 16] = aten.silu.default(%x)
        return %y"
    silu_gate "%x : f32[2, 16, 4] = input
        %y : f32[2, 8, 4] = aten.glu.default(%x, 1)
        return %y"
    square "%x : f32[2, 16] = input
        %y : f32[2, 16] = aten.pow.Tensor_Scalar(%x, 2)
        return %y"
    cube "%x : f32[2, 16] = input
        %y : f32[2, 16] = aten.pow.Tensor_Scalar(%x, 3.0)
        return %y"
    group_norm "%x : f32[1, 8, 6, 6] = input
        %w : f32[8] = constant \"w\"
        %b : f32[8] = constant \"b\"
        %y : f32[1, 8, 6, 6] = aten.group_norm.default(%x, 2, %w, %b)
        return %y"
    group_norm_plain "%x : f32[1, 8, 6, 6] = input
        %y : f32[1, 8, 6, 6] = aten.group_norm.default(%x, 4)
        return %y"
    cast "%x : i64[2, 16] = input
        %z : f32[2, 16] = input
        %f : f32[2, 16] = aten._to_copy.default(%x, dtype=f32)
        %y : f32[2, 16] = aten.add.Tensor(%f, %z)
        return %y"
    batch_norm "%x : f32[1, 8, 6, 6] = input
        %w : f32[8] = constant \"w\"
        %b : f32[8] = constant \"b\"
        %m : f32[8] = constant \"m\"
        %v : f32[8] = constant \"v\"
        %r : f32[1, 8, 6, 6] = aten.relu.default(%x)
        %y : f32[1, 8, 6, 6] = aten.batch_norm.default(%r, %w, %b, %m, %v, false, 0.1, 0.00001, true)
        return %y"
    gather "%x : f32[3, 4, 8] = input
        %i : i64[3, 4, 5] = input
        %y : f32[3, 4, 5] = aten.gather.default(%x, 2, %i)
        return %y"
    index "%x : f32[3, 8, 4] = input
        %i : i64[5] = input
        %y : f32[3, 5, 4] = aten.index.Tensor(%x, [none, %i])
        return %y"
    sample "%x : f32[1, 4, 6, 6] = input
        %g : f32[1, 3, 5, 2] = input
        %y : f32[1, 4, 3, 5] = aten.grid_sampler_2d.default(%x, %g, 0, 0, false)
        return %y"
    folded "%x : f32[1, 18, 25] = input
        %y : f32[1, 2, 5, 5] = aten.col2im.default(%x, [5, 5], [3, 3], [1, 1], [1, 1], [1, 1])
        return %y"
    folded_wide "%x : f32[1, 18, 324] = input
        %y : f32[1, 2, 18, 18] = aten.col2im.default(%x, [18, 18], [3, 3], [1, 1], [1, 1], [1, 1])
        return %y"
    unfolded "%x : f32[1, 4, 12] = input
        %y : f32[1, 4, 4, 5] = aten.unfold.default(%x, 2, 5, 2)
        return %y"
    many_dimensions "%x : f32[16, 16] = input
        %v : f32[1, 4, 4, 1, 4, 4] = aten.view.default(%x, [1, 4, 4, 1, 4, 4])
        %d : f32[1, 4, 4, 1, 4, 4] = aten.div.Scalar(%v, 4.0)
        %y : f32[16, 1, 4, 4] = aten.reshape.default(%d, [16, 1, 4, 4])
        return %y"
    tiny_weights "%x : f32[4, 8] = input
        %w : f32[1, 8] = constant \"w\" [0.000000001, 0.000000002, 0.000000003, 0.000000004, 0.000000005, 0.000000006, 0.000000007, 0.000000008]
        %b : f32[1] = constant \"b\" [1.5]
        %y : f32[4, 1] = aten.linear.default(%x, %w, %b)
        return %y"
    roll "%x : f32[1, 4, 6, 8] = input
        %y : f32[1, 4, 6, 8] = aten.roll.default(%x, [2, -3], [2, 3])
        return %y"
    windows "%x : f32[1, 14, 14, 8] = input
        %v : f32[1, 2, 7, 2, 7, 8] = aten.view.default(%x, [1, 2, 7, 2, 7, 8])
        %p : f32[1, 2, 2, 7, 7, 8] = aten.permute.default(%v, [0, 1, 3, 2, 4, 5])
        %y : f32[4, 49, 8] = aten.view.default(%p, [4, 49, 8])
        return %y"
    compare "%x : f32[2, 16] = input
        %t : bool[2, 16] = aten.gt.Scalar(%x, 0.25)
        %u : bool[2, 16] = aten.lt.Scalar(%x, 1.5)
        %a : bool[2, 16] = aten.__and__.Tensor(%t, %u)
        %y : bool[2, 16] = aten.bitwise_not.default(%a)
        return %y"
    hidden "%x : f32[1, 4, 6, 6] = input
        %m : bool[1, 1, 6, 6] = input
        %f : f32[1, 4, 6, 6] = aten.masked_fill.Scalar(%x, %m, -inf)
        %y : f32[1, 4, 6, 6] = aten.softmax.int(%f, -1)
        return %y"
    masked "%x : f32[1, 4, 6, 6] = input
        %k : bool[1, 1, 6, 6] = input
        %o : f32[] = constant \"o\" [0.0]
        %h : f32[] = constant \"h\" [-3.4028234663852886e38]
        %w : f32[1, 1, 6, 6] = aten.where.self(%k, %o, %h)
        %e : f32[1, 4, 6, 6] = aten.expand.default(%w, [1, 4, 6, 6])
        %a : f32[1, 4, 6, 6] = aten.add.Tensor(%x, %e)
        %y : f32[1, 4, 6, 6] = aten.softmax.int(%a, -1)
        return %y"
    cleared "%x : f32[1, 4, 6, 6] = input
        %m : bool[1, 4, 6, 6] = input
        %y : f32[1, 4, 6, 6] = aten.masked_fill.Scalar(%x, %m, 0.5)
        return %y"
}
