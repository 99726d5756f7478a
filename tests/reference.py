"""Slow and obvious: the formulas again, in plain Python. Imports nothing of ours."""

import itertools
import math


def truncate(vector, dim):
    """First coordinates, then unit length."""
    cut = list(vector[:dim])
    length = math.sqrt(sum(x * x for x in cut))
    return [x / length for x in cut] if length > 0 else cut


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def softmax(scores):
    top = max(scores)
    powers = [math.exp(s - top) for s in scores]
    return [p / sum(powers) for p in powers]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def distribution_loss(student, teacher, temperature):
    rows = [
        kl(softmax([x / temperature for x in t]), softmax([x / temperature for x in s]))
        for s, t in zip(student, teacher, strict=True)
    ]
    return sum(rows) / len(rows)


def info_nce(anchors, candidates, scale=20.0):
    """MultipleNegativesRankingLoss with cosine: candidate i is the right one for anchor i."""
    total = 0.0
    for i, anchor in enumerate(anchors):
        a = truncate(anchor, len(anchor))
        scores = [scale * dot(a, truncate(c, len(c))) for c in candidates]
        total -= math.log(softmax(scores)[i])
    return total / len(anchors)


def elastic_loss(
    anchors,
    candidates,
    layers,
    sizes,
    distillation_weight,
    cross_size_weight,
    temperature,
    taught=None,
    pull=10.0,
    convergence=0.0,
):
    """``anchors[layer][row]`` and ``candidates[layer][row]`` are vectors; the last of ``layers`` is the deepest.

    ``taught`` are the teacher's vectors of both columns, ``pull`` the weight of their cosines, ``convergence`` that of
    the shallow vectors' cosines to the deep ones.
    """
    deepest = layers[-1]
    width = len(anchors[deepest][0])

    def cut(rows, dim):
        return [truncate(row, dim) for row in rows]

    def scores(rows, columns):
        return [[dot(row, column) for column in columns] for row in rows]

    full = scores(cut(anchors[deepest], width), cut(candidates[deepest], width))
    total = info_nce(anchors[deepest], candidates[deepest])
    if taught is not None:
        own, full = full, scores(*(cut(rows, len(rows[0])) for rows in taught))
        total += distillation_weight * distribution_loss(own, full, temperature)
        ours, theirs = anchors[deepest] + candidates[deepest], taught[0] + taught[1]
        if len(ours[0]) == len(theirs[0]):
            far = [1 - dot(truncate(x, width), truncate(y, width)) for x, y in zip(ours, theirs, strict=True)]
            total += pull * sum(far) / len(far)
    teacher = [anchors[deepest], candidates[deepest]] if taught is None else taught
    every = [row for rows in teacher for row in cut(rows, len(rows[0]))]
    if convergence:
        is_as_wide = len(every[0]) == width
        deep = every if is_as_wide else cut(anchors[deepest] + candidates[deepest], width)
        far = [
            1 - dot(truncate(row, width), target)
            for layer in layers[:-1]
            for row, target in zip(anchors[layer] + candidates[layer], deep, strict=True)
        ]
        total += convergence * sum(far) / len(far)
    smaller = 0.0
    for layer, dim in sizes:
        a, c = cut(anchors[layer], dim), cut(candidates[layer], dim)
        smaller += info_nce(a, c)
        smaller += distillation_weight * distribution_loss(scores(a, c), full, temperature)
        if layer != deepest:
            deep_a, deep_c = cut(anchors[deepest], dim), cut(candidates[deepest], dim)
            smaller += cross_size_weight * distribution_loss(scores(a, deep_c), full, temperature)
            crossed = scores(a + c, deep_a + deep_c)
            smaller += cross_size_weight * distribution_loss(crossed, scores(every, every), temperature)
    return total + smaller / len(sizes)


def two_d_matryoshka_loss(anchors, candidates, shallow, deep, dim, alignment_weight):
    """2DMSE at one drawn layer and dim, https://arxiv.org/abs/2402.14776 v1."""

    def cut(rows):
        return [truncate(row, dim) for row in rows]

    total = 0.0
    for layer in (deep, shallow):
        total += info_nce(anchors[layer], candidates[layer])
        total += info_nce(cut(anchors[layer]), cut(candidates[layer]))
    students, teachers = anchors[shallow] + candidates[shallow], anchors[deep] + candidates[deep]
    return total + alignment_weight * distribution_loss(students, teachers, 1.0)


def compression_target(rows, dim):
    """ESE's P_k by power iteration on A A^T: no library decomposes anything here."""
    width = len(rows[0])
    products = [[sum(r[i] * r[j] for r in rows) / math.sqrt(width) for j in range(width)] for i in range(width)]
    a = [softmax(row) for row in products]
    gram = [[dot(a[i], a[j]) for j in range(width)] for i in range(width)]
    columns = []
    for _ in range(dim):
        vector = [math.sin(1.0 + 3 * i) for i in range(width)]
        for _ in range(4000):
            last = vector
            for done, _value in columns:
                vector = [v - dot(vector, done) * d for v, d in zip(vector, done, strict=True)]
            vector = truncate([dot(row, vector) for row in gram], width)
            if max(abs(v - w) for v, w in zip(vector, last, strict=True)) < 1e-15:
                break
        value = math.sqrt(dot(vector, [dot(row, vector) for row in gram]))
        largest = max(vector, key=abs)
        columns.append(([v if largest > 0 else -v for v in vector], value))
    return [[dot(row, vector) * value for vector, value in columns] for row in rows]


def espresso_loss(anchors, candidates, depth, dim, compression_weight, temperature):
    """ESE, https://arxiv.org/abs/2402.14776 v2, with layers 1 to L - 1."""

    def compressed(layer):
        a, c = anchors[layer], candidates[layer]
        task = info_nce([truncate(row, dim) for row in a], [truncate(row, dim) for row in c])
        rows = a + c
        target = compression_target(rows, dim)
        kept = [row[:dim] for row in rows]
        squares = [(x - y) ** 2 for k, t in zip(kept, target, strict=True) for x, y in zip(k, t, strict=True)]
        r = sum(squares) / len(squares) + temperature * distribution_loss(kept, target, temperature)
        return task + compression_weight * r

    total = info_nce(anchors[depth], candidates[depth]) + compressed(depth)
    for layer in range(1, depth):
        total += compressed(layer) / (1 + math.log(layer)) / (depth - 1)
    return total


def dot_info_nce(anchors, candidates):
    """MultipleNegativesRankingLoss with dot products and scale 1."""
    rows = [softmax([dot(a, c) for c in candidates]) for a in anchors]
    return -sum(math.log(row[i]) for i, row in enumerate(rows)) / len(rows)


def starbucks_loss(anchors, candidates, depth, sizes, flavour):
    """SRL, https://arxiv.org/abs/2410.13230, section 3.1."""
    base = dot_info_nce if flavour == "retrieval" else info_nce
    total = base(anchors[depth], candidates[depth])
    for layer, dim in sizes:
        a, c = [row[:dim] for row in anchors[layer]], [row[:dim] for row in candidates[layer]]
        if flavour == "retrieval":
            student = [[dot(x, y) for y in c] for x in a]
            teacher = [[dot(x, y) for y in candidates[depth]] for x in anchors[depth]]
            total += base(a, c) + distribution_loss(student, teacher, 1.0)
        else:
            full = [row[:dim] for row in anchors[depth] + candidates[depth]]
            total += base([truncate(r, dim) for r in a], [truncate(r, dim) for r in c]) + 0.3 * distribution_loss(
                a + c, full, 1.0
            )
    return total


def ndcg(scores, relevances, k):
    """Of one query: gain over logarithm of the rank, as a fraction of the best order's."""

    def discounted(gains):
        return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains[:k], start=1))

    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    return discounted([relevances[i] for i in order]) / discounted(sorted(relevances, reverse=True))


def ranks(values):
    """From 1; equal values share the mean of their ranks."""
    return [sum(v < value for v in values) + (1 + sum(v == value for v in values)) / 2 for value in values]


def spearman(first, second):
    a, b = ranks(first), ranks(second)
    mean = (len(a) + 1) / 2
    covariance = sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True))
    return covariance / math.sqrt(sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b))


def masked_token_transform(state, weight, bias, scale, shift):
    """SMAE's head up to the vocabulary: the first columns of a square weight, exact GELU, LayerNorm."""
    wide = [dot(row[: len(state)], state) + b for row, b in zip(weight, bias, strict=True)]
    bent = [x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in wide]
    mean = sum(bent) / len(bent)
    variance = sum((x - mean) ** 2 for x in bent) / len(bent)
    return [(x - mean) / math.sqrt(variance + 1e-12) * s + t for x, s, t in zip(bent, scale, shift, strict=True)]


def masked_token_loss(states, labels, dim, transform, vocabulary, offsets):
    """Mean cross entropy of the tokens whose label is not -100; ``states[row][position]`` is a vector."""
    losses = []
    for row, row_labels in zip(states, labels, strict=True):
        for state, label in zip(row, row_labels, strict=True):
            if label != -100:
                transformed = masked_token_transform(state[:dim], *transform)
                scores = [dot(token, transformed) + o for token, o in zip(vocabulary, offsets, strict=True)]
                losses.append(-math.log(softmax(scores)[label]))
    return sum(losses) / len(losses)


def binomial_cdf(k, n, p):
    return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(min(k, n) + 1))


def hoeffding_bentkus(losses, alpha):
    """P-value of a mean above alpha, https://arxiv.org/abs/2101.02703, section 3.1."""
    n, mean = len(losses), math.fsum(losses) / len(losses)
    r = min(mean, alpha)
    divergence = (1 - r) * math.log((1 - r) / (1 - alpha)) + (r * math.log(r / alpha) if r else 0.0)
    return min(1.0, math.exp(-n * divergence), math.e * binomial_cdf(math.ceil(math.fsum(losses)), n, alpha))


def betting(losses, alpha):
    """The same by betting, step by step; the bet on a loss knows those before it only."""
    wealth = best = 1.0
    total, squares, variance = 0.5, 0.25, 0.25
    for i, loss in enumerate(losses, 1):
        bet = min(1.0, math.sqrt(2 * math.log(10) / (len(losses) * variance)))
        wealth *= 1 - bet * (loss - alpha)
        best = max(best, wealth)
        total += loss
        squares += (loss - total / (i + 1)) ** 2
        variance = squares / (i + 1)
    return 1 / best


def attention_pooling(tokens, text_factors, token_factors):
    """LAMA with the mean as context and the heads averaged; factors are [head][rank][coordinate]."""
    width = len(tokens[0])
    mean = [sum(token[i] for token in tokens) / len(tokens) for i in range(width)]
    pooled = [0.0] * width
    for of_text, of_token in zip(text_factors, token_factors, strict=True):
        ranks = list(zip(of_text, of_token, strict=True))
        weights = softmax([sum(dot(p, mean) * dot(q, token) for p, q in ranks) for token in tokens])
        for weight, token in zip(weights, tokens, strict=True):
            for i in range(width):
                pooled[i] += weight * token[i] / len(text_factors)
    return pooled


def standardized(vector, scale=None, shift=None):
    """LayerNorm."""
    mean = sum(vector) / len(vector)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in vector) / len(vector) + 1e-5)
    scale, shift = scale or [1.0] * len(vector), shift or [0.0] * len(vector)
    return [(x - mean) / deviation * s + t for x, s, t in zip(vector, scale, shift, strict=True)]


def times(matrix, vector):
    return [dot(row, vector) for row in matrix]


def cross_attention(queries, context, weights, num_heads, head_dim):
    """``weights`` by the names of the module's parameters; a query at a time, a head at a time."""
    read = [standardized(c, weights["context_norm.weight"], weights["context_norm.bias"]) for c in context]
    keys = [times(weights["to_keys.weight"], c) for c in read]
    values = [times(weights["to_values.weight"], c) for c in read]
    answers = []
    for query in queries:
        normed = standardized(query, weights["query_norm.weight"], weights["query_norm.bias"])
        asked = times(weights["to_queries.weight"], normed)
        heads = []
        for head in range(num_heads):
            part = slice(head * head_dim, (head + 1) * head_dim)
            attended = softmax([dot(asked[part], key[part]) / math.sqrt(head_dim) for key in keys])
            columns = zip(*(value[part] for value in values), strict=True)
            heads += [dot(attended, column) for column in columns]
        answers.append([x + y for x, y in zip(query, times(weights["to_output.weight"], heads), strict=True)])
    return answers


def gated_feed_forward(state, weights):
    """GEGLU: the first half of the wide layer times the exact GELU of the second."""
    normed = standardized(state, weights["norm.weight"], weights["norm.bias"])
    wide = [x + b for x, b in zip(times(weights["expand.weight"], normed), weights["expand.bias"], strict=True)]
    half = len(wide) // 2
    gated = [a * g * 0.5 * (1 + math.erf(g / math.sqrt(2))) for a, g in zip(wide[:half], wide[half:], strict=True)]
    narrow = times(weights["contract.weight"], gated)
    return [x + y + b for x, y, b in zip(state, narrow, weights["contract.bias"], strict=True)]


def multi_layer_pooling(layers, weights, num_heads, head_dim, last_token=False, normalized=True):
    """https://arxiv.org/abs/2409.02727, model 5 (or 3, with the last token); ``layers[layer][token]`` is a vector."""
    context = []
    for tokens, position in zip(layers, weights["layer_positions"], strict=True):
        mean = [sum(column) / len(tokens) for column in zip(*tokens, strict=True)]
        pooled = tokens[-1] if last_token else mean
        pooled = standardized(pooled) if normalized else pooled
        context.append([x + y for x, y in zip(pooled, position, strict=True)])

    def part(prefix):
        return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}

    read = cross_attention(weights["queries"], context, part("cross_attention."), num_heads, head_dim)
    read = [gated_feed_forward(row, part("feed_forward.")) for row in read]
    return [sum(column) / len(read) for column in zip(*read, strict=True)]


def layer_norm(vector, weight, bias, eps=1e-5):
    mean = sum(vector) / len(vector)
    variance = sum((x - mean) ** 2 for x in vector) / len(vector)
    return [(x - mean) / math.sqrt(variance + eps) * w + b for x, w, b in zip(vector, weight, bias, strict=True)]


def latent_attention_pooling(texts, masks, weights, head_dim):
    """NV-Embed's pooling token by token; ``weights`` are lists by their usual letters, matrices as (out, in)."""

    def times(matrix, vector):
        return [dot(row, vector) for row in matrix]

    def read(token):
        query = times(weights["W_q"], layer_norm(token, *weights["LN_q"]))
        context = [layer_norm(latent, *weights["LN_c"]) for latent in weights["Z"]]
        keys = [times(weights["W_k"], latent) for latent in context]
        values = [times(weights["W_v"], latent) for latent in context]
        heads = []
        for start in range(0, len(query), head_dim):
            part = slice(start, start + head_dim)
            attention = softmax([dot(query[part], key[part]) / math.sqrt(head_dim) for key in keys])
            for j in range(start, start + head_dim):
                heads.append(sum(a * value[j] for a, value in zip(attention, values, strict=True)))
        return [x + o for x, o in zip(token, times(weights["W_o"], heads), strict=True)]

    def feed_forward(state):
        inner = times(weights["W_1"], layer_norm(state, *weights["LN_f"]))
        inner = [x + b for x, b in zip(inner, weights["b_1"], strict=True)]
        half = len(inner) // 2
        gated = [a * g * (1 + math.erf(g / math.sqrt(2))) / 2 for a, g in zip(inner[:half], inner[half:], strict=True)]
        return [x + o + b for x, o, b in zip(state, times(weights["W_2"], gated), weights["b_2"], strict=True)]

    pooled = []
    for tokens, mask in zip(texts, masks, strict=True):
        states = [feed_forward(read(token)) for token, keep in zip(tokens, mask, strict=True) if keep]
        pooled.append([sum(column) / len(states) for column in zip(*states, strict=True)])
    return pooled


def full_attention(queries, keys, values, is_text):
    """One head: every token of a text reads every token of it, and none of the padding."""
    width = len(queries[0])
    read = [j for j, text in enumerate(is_text) if text]
    outputs = []
    for query in queries:
        weights = softmax([dot(query, keys[j]) / math.sqrt(width) for j in read])
        outputs.append([sum(w * values[j][c] for w, j in zip(weights, read, strict=True)) for c in range(width)])
    return outputs


def passage_log_probs(next_logits, context, passage):
    """Token by token; ``next_logits`` is given the tokens so far, and so cannot see later ones."""
    read, scores = list(context), []
    for token in passage:
        scores.append(math.log(softmax(next_logits(read))[token]))
        read.append(token)
    return scores


def generation_retrieval_loss(anchors, candidates, log_probs, beta, temperature):
    """GRL, https://arxiv.org/abs/2408.03402: its three parts.

    ``candidates[c][row]`` are vectors and ``log_probs[c][row]`` lists, one number a token; the positives are c = 0.
    """
    contrastive = info_nce(anchors, [vector for column in candidates for vector in column])
    preference, divergence = 0.0, 0.0
    for row, anchor in enumerate(anchors):
        sums = [sum(column[row]) for column in log_probs]
        for negative in sums[1:]:
            preference -= math.log(1 / (1 + math.exp(-beta * (sums[0] - negative))))
        means = [sum(column[row]) / len(column[row]) for column in log_probs]
        width = len(anchor)
        cosines = [dot(truncate(anchor, width), truncate(column[row], width)) for column in candidates]
        divergence += kl(softmax([cosine / temperature for cosine in cosines]), softmax(means))
    rows, negatives = len(anchors), len(candidates) - 1
    return contrastive, preference / (rows * negatives), divergence / rows


def given_negatives(anchors, columns, scale):
    """Each row for itself: ``columns[0][row]`` is right for ``anchors[row]``, the row's other columns are wrong."""
    total = 0.0
    for row, anchor in enumerate(anchors):
        a = truncate(anchor, len(anchor))
        powers = [math.exp(scale * dot(a, truncate(column[row], len(anchor)))) for column in columns]
        total -= math.log(powers[0] / sum(powers))
    return total / len(anchors)


def saturation_exit(token_vectors, layers, threshold):
    """The first layer whose mean token vector has a cosine of at least ``threshold`` with that of the exit before.

    ``token_vectors[j]`` holds the token vectors of one text at layer ``layers[j]``. At the last layer the text leaves.
    """
    means = [[sum(column) / len(column) for column in zip(*vectors, strict=True)] for vectors in token_vectors]
    for before, here, layer in zip(means, means[1:-1], layers[1:], strict=False):
        norms = math.sqrt(sum(x * x for x in before)) * math.sqrt(sum(x * x for x in here))
        if sum(x * y for x, y in zip(before, here, strict=True)) / norms >= threshold:
            return layer
    return layers[-1]


def fixed_dimensional_encoding(tokens, planes, signs, is_query, fill_empty=True):
    """MUVERA's vector of one text, unsketched. ``planes[r][i]`` is a normal, ``signs[r]`` rows of +-1 or None."""
    encoding = []
    for normals, matrix in zip(planes, signs, strict=True):
        bits = [[dot(token, normal) > 0 for normal in normals] for token in tokens]
        projected = [
            token if matrix is None else [dot(row, token) / math.sqrt(len(matrix)) for row in matrix]
            for token in tokens
        ]
        for bucket in range(2 ** len(normals)):
            wanted = [bucket >> i & 1 == 1 for i in range(len(normals))]
            inside = [vector for vector, own in zip(projected, bits, strict=True) if own == wanted]
            if not inside and fill_empty and not is_query:
                differing = [sum(a != b for a, b in zip(own, wanted, strict=True)) for own in bits]
                inside = [projected[differing.index(min(differing))]]
            total = [sum(column) for column in zip(*inside, strict=True)] or [0.0] * len(projected[0])
            encoding += total if is_query or not inside else [x / len(inside) for x in total]
    return encoding


def maxsim(query, document):
    return sum(max(dot(q, p) for p in document) for q in query)


def sign(x):
    return 1.0 if x >= 0 else -1.0


def residual_binarization(vector, binarize, steps):
    """BEBR's code of one vector. ``binarize`` is a (matrix, bias), ``steps`` pairs of reconstruction and residual."""

    def affine(part, x):
        return [value + shift for value, shift in zip(times(part[0], x), part[1], strict=True)]

    unit = truncate(vector, len(vector))
    code = [sign(x) for x in affine(binarize, unit)]
    for step, (reconstruct, residual) in enumerate(steps):
        back = affine(reconstruct, code)
        left_over = [x - y for x, y in zip(unit, truncate(back, len(back)), strict=True)]
        code = [x + sign(y) / 2 ** (step + 1) for x, y in zip(code, affine(residual, left_over), strict=True)]
    return code


def planes_of_bits(code, bits):
    """Signs of each power of two, largest first, of odd integers up to 2^bits - 1."""
    planes = []
    for plane in range(bits):
        weight = 2 ** (bits - 1 - plane)
        planes.append([1 if x > 0 else -1 for x in code])
        code = [x - weight * y for x, y in zip(code, planes[-1], strict=True)]
    assert not any(code)
    return planes


def symmetric_distance(first, second, bits):
    """BEBR's product of two codes of odd integers, by Hamming distances between planes."""
    total = 0
    for p, mine in enumerate(planes_of_bits(first, bits)):
        for r, theirs in enumerate(planes_of_bits(second, bits)):
            hamming = sum(x != y for x, y in zip(mine, theirs, strict=True))
            total += 2 ** (bits - 1 - p) * 2 ** (bits - 1 - r) * (len(first) - 2 * hamming)
    return total


def rotation_of_the_plane(xs, ys, steps=3000):
    """Of all rotations and reflections of the plane the one that brings ``xs`` nearest to ``ys``: tries them."""
    best = None
    for step in range(steps):
        c, s = math.cos(2 * math.pi * step / steps), math.sin(2 * math.pi * step / steps)
        for matrix in ([[c, -s], [s, c]], [[c, s], [s, -c]]):
            turned = [times(matrix, x) for x in xs]
            error = sum((a - b) ** 2 for x, y in zip(turned, ys, strict=True) for a, b in zip(x, y, strict=True))
            if best is None or error < best[0]:
                best = error, matrix
    return best[1]


def residual_map(embedding, weights):
    """W e + b + V gelu(U e + c), of unit length; ``weights`` by the names of the module's parameters."""
    hidden = [x + c for x, c in zip(times(weights["expand.weight"], embedding), weights["expand.bias"], strict=True)]
    hidden = [h * (1 + math.erf(h / math.sqrt(2))) / 2 for h in hidden]
    line = [x + b for x, b in zip(times(weights["line.weight"], embedding), weights["line.bias"], strict=True)]
    mapped = [x + y for x, y in zip(line, times(weights["contract.weight"], hidden), strict=True)]
    return [x / math.sqrt(dot(mapped, mapped)) for x in mapped]


def cosine(a, b):
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def relative_representation(vector, anchors, center=False):
    mean = [sum(column) / len(anchors) for column in zip(*anchors, strict=True)] if center else [0.0] * len(vector)

    def moved(x):
        return [a - m for a, m in zip(x, mean, strict=True)]

    return [cosine(moved(vector), moved(anchor)) for anchor in anchors]


def quantile(values, share):
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low + (place - math.floor(place)) * (high - low)


def robust_normalization(column, clip_quantile=None):
    """One coordinate of all texts; 1.3489795 is how far the quartiles of a normal distribution are apart."""
    spread = (quantile(column, 0.75) - quantile(column, 0.25)) / 1.3489795003921634
    values = [(x - quantile(column, 0.5)) / (spread or 1.0) for x in column]
    if clip_quantile is None:
        return values
    low, high = quantile(values, clip_quantile), quantile(values, 1 - clip_quantile)
    return [min(max(x, low), high) for x in values]


def neutralized(vector, directions):
    """Without its part in orthonormal directions, of unit length."""
    for direction in directions:
        part = dot(vector, direction)
        vector = [x - part * d for x, d in zip(vector, direction, strict=True)]
    return truncate(vector, len(vector))


def equalized(first, second, direction):
    """A pair, around one direction: Bolukbasi et al., with the sign of each member."""
    a, b = truncate(first, len(first)), truncate(second, len(second))
    mean = [(x + y) / 2 for x, y in zip(a, b, strict=True)]
    part = dot(mean, direction)
    shared = [m - part * g for m, g in zip(mean, direction, strict=True)]
    height = math.sqrt(1 - dot(shared, shared))
    side = sign(dot(a, direction) - dot(b, direction))
    return [[y + s * height * g for y, g in zip(shared, direction, strict=True)] for s in (side, -side)]


def tte_depths(vectors, reference=None, distance="cosine"):
    """2 minus the mean distance, pair by pair; a chord by Pythagoras, not by the cosine."""

    def apart(x, h):
        if distance == "cosine":
            return 1 - cosine(x, h)
        return math.dist(truncate(x, len(x)), truncate(h, len(h)))

    depths = []
    for i, x in enumerate(vectors):
        others = [h for j, h in enumerate(vectors) if j != i] if reference is None else reference
        depths.append(2 - sum(apart(x, h) for h in others) / len(others))
    return depths


def association(x, y, a, b):
    """WEAT's effect size, with n - 1 in the deviation, and its p-value over all partitions."""

    def s(word):
        return sum(cosine(word, v) for v in a) / len(a) - sum(cosine(word, v) for v in b) / len(b)

    values = [s(word) for word in x + y]
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    effect = (sum(values[: len(x)]) / len(x) - sum(values[len(x) :]) / len(y)) / deviation
    sums = [sum(part) for part in itertools.combinations(values, len(x))]
    return effect, sum(one >= sums[0] - 1e-12 for one in sums) / len(sums)


def direct_bias(texts, direction, strictness):
    """Bolukbasi's, along one direction."""
    return sum(abs(cosine(text, direction)) ** strictness for text in texts) / len(texts)


def indirect_bias(w, v, direction):
    """Bolukbasi's, of one pair along one direction."""

    def rest(x):
        x, g = truncate(x, len(x)), truncate(direction, len(direction))
        return [a - dot(x, g) * b for a, b in zip(x, g, strict=True)]

    return (cosine(w, v) - cosine(rest(w), rest(v))) / cosine(w, v)


def individual_temperature(anchors, candidates, temperature, averages, rho, rate):
    """iSogCLR on one batch: value, and for each row u and the slope of its temperature. Candidate i is i's positive."""
    value, rows = 0.0, []
    for i, anchor in enumerate(anchors):
        a, t = truncate(anchor, len(anchor)), temperature[i]
        scores = [dot(a, truncate(c, len(c))) for c in candidates]
        leads = [score - scores[i] for j, score in enumerate(scores) if j != i]
        mean = sum(math.exp(h / t) for h in leads) / len(leads)
        u = mean if averages[i] is None else (1 - rate) * averages[i] + rate * mean
        slope = math.log(u) + rho - sum(math.exp(h / t) / u * h / t for h in leads) / len(leads)
        value += (t * math.log(u) + t * rho) / len(anchors)
        rows.append((u, slope))
    return value, rows


def arc(first, second, share):
    """The point of an arc between two vectors, a share of the angle away from the first."""
    length = [math.sqrt(dot(x, x)) for x in (first, second)]
    angle = math.acos(dot(first, second) / (length[0] * length[1]))
    weights = [math.sin((1 - share) * angle) / math.sin(angle), math.sin(share * angle) / math.sin(angle)]
    return [weights[0] * x + weights[1] * y for x, y in zip(first, second, strict=True)]


def merged_arc(vectors, weights):
    """Vectors along arcs, one after the other."""
    result = vectors[0]
    for n in range(1, len(vectors)):
        result = arc(result, vectors[n], weights[n] / sum(weights[: n + 1]))
    return result


def bag_of_words(logits, ids):
    """DupMAE: cross entropy of the words of a text under the best logit of each."""
    best = softmax([max(token[v] for token in logits) for v in range(len(logits[0]))])
    return -sum(math.log(best[word]) for word in set(ids)) / len(ids)


def soft_contrastive(columns, labels, label_embeddings, temperature, label_temperature):
    """Dialog2Flow; with one column each text is compared with all others."""
    rows = len(labels)

    def direction(first, second):
        total = 0.0
        for i in range(rows):
            others = [j for j in range(rows) if len(columns) == 2 or j != i]
            wanted = [cosine(label_embeddings[labels[i]], label_embeddings[labels[j]]) for j in others]
            target = softmax([x / label_temperature for x in wanted])
            scores = softmax([cosine(first[i], second[j]) / temperature for j in others])
            total -= sum(t * math.log(s) for t, s in zip(target, scores, strict=True))
        return total / rows

    return (direction(columns[0], columns[-1]) + direction(columns[-1], columns[0])) / 2


def fixed_vector_cross_entropy(rows, labels, class_vectors, scale, similarity):
    total = 0.0
    for row, label in zip(rows, labels, strict=True):
        total -= math.log(softmax([scale * similarity(row, vector) for vector in class_vectors])[label])
    return total / len(rows)


def orthogonal_projection(rows, classes, negative_weight):
    """OPL over the pairs of different rows."""
    same, different = [], []
    for i, x in enumerate(rows):
        for j, y in enumerate(rows):
            if i != j:
                (same if classes[i] == classes[j] else different).append(cosine(x, y))
    within = 1 - sum(same) / len(same) if same else 0.0
    return within + (negative_weight * abs(sum(different) / len(different)) if different else 0.0)


def mixup_contrastive(anchors, texts, positives, negatives, *, kind, weight, share, with_anchor, margin, alpha, beta):
    """Metrix; ``positives[i]`` and ``negatives[i]`` are positions in ``texts``."""

    def value(examples):
        """``examples`` are (cosine, how much a positive, how much a negative)."""
        if kind == "contrastive":
            return sum(-p * s + n * max(0.0, s - margin) for s, p, n in examples)
        up = math.log(1 + sum(p * math.exp(-alpha * (s - margin)) for s, p, _ in examples)) / alpha
        return up + math.log(1 + sum(n * math.exp(beta * (s - margin)) for s, _, n in examples)) / beta

    total = 0.0
    for i, anchor in enumerate(anchors):
        clean = [(cosine(anchor, texts[j]), 1, 0) for j in positives[i]]
        clean += [(cosine(anchor, texts[j]), 0, 1) for j in negatives[i]]
        total += value(clean)
        near = [anchor] if with_anchor else [texts[j] for j in positives[i]]
        far = [texts[j] for j in negatives[i]]
        mixed = []
        for x in near:
            for n in far:
                x_unit, n_unit = truncate(x, len(x)), truncate(n, len(n))
                v = [share * a + (1 - share) * b for a, b in zip(x_unit, n_unit, strict=True)]
                mixed.append((cosine(anchor, v), share / len(far), (1 - share) / len(near)))
        total += weight * value(mixed)
    return total / len(anchors)


def manifold_instance_mixup(mixtures, positives, partners, shares, temperature):
    """MI-Mix's loss of given mixtures."""
    total = 0.0
    for i, mixture in enumerate(mixtures):
        own = math.exp(cosine(mixture, positives[i]) / temperature)
        partner = math.exp(cosine(mixture, positives[partners[i]]) / temperature)
        others = [math.exp(cosine(mixture, y) / temperature) for j, y in enumerate(positives) if j != i]
        mean = sum(others) / len(others)
        negatives = sum(other / mean * other for other in others)
        total -= shares[i] * math.log(own / (negatives + own))
        total -= (1 - shares[i]) * math.log(partner / (negatives + own))
    return total / len(mixtures)


def weighted_contrastive(anchors, positives, temperature):
    """The same without mixtures, of both sides among each other."""
    texts = anchors + positives
    total = 0.0
    for i, text in enumerate(texts):
        other = (i + len(anchors)) % len(texts)
        own = math.exp(cosine(text, texts[other]) / temperature)
        others = [math.exp(cosine(text, y) / temperature) for j, y in enumerate(texts) if j not in (i, other)]
        mean = sum(others) / len(others)
        total -= math.log(own / (own + sum(x / mean * x for x in others)))
    return total / len(texts)


def guided_negatives(columns, guides, temperature, margin, *, relative=False, anchors=True, positives=True):
    """GIST without comparing a text with itself, and without those as similar as the positive."""
    rows = len(columns[0])
    total = 0.0
    for i in range(rows):
        limit = cosine(guides[0][i], guides[1][i])
        limit -= margin * abs(limit) if relative else margin
        pairs = [(0, k, j) for k in range(1, len(columns)) for j in range(rows)]
        pairs += [(0, 0, j) for j in range(rows) if j != i] if anchors else []
        pairs += [(1, 1, j) for j in range(rows) if j != i] if positives else []
        own = cosine(columns[0][i], columns[1][i]) / temperature
        kept = [own]
        for a, b, j in pairs:
            if (a, b, j) != (0, 1, i) and cosine(guides[a][i], guides[b][j]) < limit - 1e-6:
                kept.append(cosine(columns[a][i], columns[b][j]) / temperature)
        total -= math.log(softmax(kept)[0])
    return total / rows


def balanced_assignment(distances, epsilon, iterations):
    """Sinkhorn by loops, on numbers and not on logarithms: columns to sum 1 / K, then rows to sum 1 / B."""
    rows, columns = len(distances), len(distances[0])
    mean = sum(map(sum, distances)) / (rows * columns)
    centered = [[x - mean for x in row] for row in distances]
    largest = max(abs(x) for row in centered for x in row)
    q = [[math.exp(-x / largest / epsilon) for x in row] for row in centered]
    for _ in range(iterations):
        for k in range(columns):
            total = sum(row[k] for row in q)
            for row in q:
                row[k] /= total * columns
        for row in q:
            total = sum(row)
            row[:] = [x / total / rows for x in row]
    return [[x * rows for x in row] for row in q]
